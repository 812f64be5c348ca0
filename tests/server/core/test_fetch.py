"""Images by URL: what is fetched, and above all what is not."""

import asyncio
import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_http import serve_requests
from server.serving import image, in_base64, running

from perception_encoder.errors import ImageFetchError
from perception_encoder.server import ServerSettings
from perception_encoder.server.core import images
from perception_encoder.server.core.fetch import Address, UrlFetcher, is_public
from perception_encoder.server.options import ImageSettings

IMAGE = image(1)

# The forms of addresses that are not public: every one must be refused before anything is sent.
ADDRESSES = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.0.0.1",
    "017700000001", "0177.0.0.1", "0177.0.0.01", "127.0.0.1.", "0", "0.0.0.0", "localhost",
    "localhost.", "LOCALHOST", "ip6-localhost", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fe80::1%25eth0]",
    "[fc00::1]", "[fd12:3456::1]", "[fec0::1]", "[ff02::1]", "10.0.0.1", "172.16.0.1",
    "192.168.1.1", "100.64.0.1", "169.254.169.254", "0xa9fea9fe", "2852039166", "198.18.0.1",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "1.1.1.1@127.0.0.1", "127.0.0.1\\@example.com",
    "127.0.0.1#@example.com", "①②⑦.⓪.⓪.①", "metadata.google.internal", "intranet",
]  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        body = {"/text": b"<html>" * 100, "/large": IMAGE + bytes(100_000)}.get(self.path, IMAGE)
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/slow":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.05)
            else:
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[http.server.ThreadingHTTPServer]:
    with serve_requests(Handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        yield server


def allows_loopback_once(times: int) -> Callable[[Address], bool]:
    """A stand-in for a public address: loopback counts as one so many times."""
    left = [times]

    def is_allowed(address: Address) -> bool:
        if str(address) == "127.0.0.1" and left[0]:
            left[0] -= 1
            return True
        return is_public(address)

    return is_allowed


async def to_loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


def fetched(
    url: str,
    *,
    allow_http: bool = True,
    resolver: Callable = to_loopback,
    is_allowed: Callable[[Address], bool] = is_public,
    timeout_seconds: float = 5,
    max_bytes: int = 50_000,
) -> bytes:
    async def run() -> bytes:
        fetcher = UrlFetcher(
            allow_http=allow_http,
            timeout_seconds=timeout_seconds,
            max_bytes=max_bytes,
            resolver=resolver,
            is_allowed=is_allowed,
        )
        try:
            return await fetcher.fetch(url, item="image 0")
        finally:
            await fetcher.close()

    return asyncio.run(run())


def url_of(web: http.server.ThreadingHTTPServer, path: str = "/a.png") -> str:
    return f"http://images.example:{web.server_port}{path}"


def test_an_image_of_a_public_address_is_fetched(web):
    assert fetched(url_of(web), is_allowed=allows_loopback_once(1)) == IMAGE


def test_redirects_are_followed_and_checked_one_by_one(web):
    target = url_of(web, "/b.png")
    url = url_of(web, f"/to/{target}")
    assert fetched(url, is_allowed=allows_loopback_once(2)) == IMAGE
    with pytest.raises(ImageFetchError, match="no public address"):
        fetched(url, is_allowed=allows_loopback_once(1))
    assert web.asked[-1].startswith("/to/")


@pytest.mark.parametrize("host", ADDRESSES)
def test_what_is_not_public_is_refused(web, host):
    """With the system's own resolver; nothing may arrive at the server that listens there."""
    for scheme in ("http", "https"):
        with pytest.raises(ImageFetchError) as caught:
            fetched(
                f"{scheme}://{host}:{web.server_port}/x",
                resolver=_system_resolver,
            )
        assert caught.value.reason in ("address", "host")
    assert web.asked == []


async def _system_resolver(host: str, port: int) -> list[str]:
    """What the system makes of odd forms; of the one name here, its well-known address."""
    if host == "metadata.google.internal":
        return ["169.254.169.254"]
    found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
    return [str(entry[4][0]) for entry in found]


@pytest.mark.parametrize("host", ADDRESSES)
def test_a_redirect_to_what_is_not_public_is_refused(web, host):
    url = url_of(web, f"/to/http://{host}:{web.server_port}/secret".replace("\\", "%5C"))
    with pytest.raises(ImageFetchError):
        fetched(url.encode("ascii", "ignore").decode(), is_allowed=allows_loopback_once(1))
    assert not any(path.endswith("secret") and "/to/" not in path for path in web.asked)


def test_a_name_that_leads_elsewhere_the_second_time_gains_nothing(web):
    """Rebinding: what was checked is what is connected to."""
    answers = iter([["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []

    async def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    # The first answer passes the check and is connected to, without asking a second time.
    is_allowed = allows_loopback_once(1)
    assert fetched(url_of(web), resolver=rebinding, is_allowed=is_allowed) == IMAGE
    assert asked == ["images.example"]
    with pytest.raises(ImageFetchError, match="no public address"):
        fetched(url_of(web), resolver=rebinding, is_allowed=is_allowed)


def test_a_name_with_one_address_that_is_not_public_is_refused(web):
    async def mixed(_host: str, _port: int) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    with pytest.raises(ImageFetchError, match="no public address"):
        fetched(url_of(web), resolver=mixed)
    assert web.asked == []


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("/text", {}, "kind"),
        ("/large", {}, "size"),
        ("/missing", {}, "status"),
        ("/loop", {}, "redirects"),
        ("/slow", {"timeout_seconds": 0.3}, "time"),
    ],
)
def test_limits(web, path, options, reason):
    with pytest.raises(ImageFetchError) as caught:
        fetched(url_of(web, path), is_allowed=lambda _: True, **options)
    assert caught.value.reason == reason


def test_http_is_refused_unless_allowed(web):
    with pytest.raises(ImageFetchError) as caught:
        fetched(url_of(web), allow_http=False)
    assert caught.value.reason == "scheme"
    for scheme in ("ftp", "file", "gopher"):
        with pytest.raises(ImageFetchError):
            fetched(f"{scheme}://images.example/x")


def test_a_server_fetches_no_urls_unless_told_to(web):
    body = {"images": [f"http://127.0.0.1:{web.server_port}/x"]}
    with running() as server:
        reply = server.client.post("/v1/embed", json=body)
        assert (reply.status_code, "fetches no URLs" in reply.text) == (400, True)
    settings = ServerSettings(images=ImageSettings(allow_urls=True, allow_http=True))
    with running(settings) as server:
        body["images"].append(in_base64(IMAGE))
        reply = server.client.post("/v1/embed", json={**body, "on_error": "report"}).json()
        assert reply["data"][0]["error"]["code"] == "image_fetch_failed"
        assert reply["data"][1]["embedding"] is not None
    assert web.asked == []


@pytest.mark.parametrize(
    "location",
    [
        "http://[", "http://[::1", "//[", "http://a.example:99999/", "http://a.example:x/", "",
        "http://%", "http://\xff.example/", "http://" + "a" * 70 + ".example/", "//" + "a." * 200,
        "?" + "x" * 5000,
    ],
)  # fmt: skip
def test_a_redirect_that_cannot_be_understood_is_an_error_of_the_image(web, location):
    with pytest.raises(ImageFetchError, match=r"^image 0: "):
        fetched(url_of(web, f"/to/{location}"), is_allowed=allows_loopback_once(2))


URL_PARTS = [
    "http:", "https:", "//", "[", "]", "::1", "@", ":", "80", "a.example", "/", "?", "#", "%", "..",
    "\\", "\xe9", "①", "\u2100", "-", "_",
]  # fmt: skip


@given(st.text(max_size=20) | st.lists(st.sampled_from(URL_PARTS), max_size=8).map("".join))
def test_any_location_is_fetched_or_an_error_of_the_image(location):
    async def run() -> None:
        fetcher = UrlFetcher(
            allow_http=True, timeout_seconds=5, max_bytes=50_000, resolver=to_loopback
        )
        answers = iter([(b"", location), (IMAGE, None)])

        async def get(*_: object):
            return next(answers)

        fetcher._get = get  # type: ignore[assignment, method-assign]
        with contextlib.suppress(ImageFetchError):
            assert await fetcher.fetch("http://a.example/", item="image 0") == IMAGE
        await fetcher.close()

    asyncio.run(run())


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 19, "-1", "1e3"])
def test_any_announced_length_is_an_error_of_the_image_or_ignored(length):
    answer = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode() + IMAGE
    )
    with answering(answer) as port, pytest.raises(ImageFetchError, match=r"^image 0: "):
        fetched(f"http://images.example:{port}/", is_allowed=allows_loopback_once(1))


def test_a_name_that_no_resolver_takes_is_an_error_of_the_image():
    async def resolver(_host: str, _port: int) -> list[str]:
        raise UnicodeError("label too long")

    with pytest.raises(ImageFetchError, match="could not be fetched"):
        fetched("http://a.example/", resolver=resolver)


def test_the_images_that_one_request_names_are_bounded_together(monkeypatch):
    num_fetched = num_at_once = most_at_once = 0

    async def fetch(_self, _url: str, *, item: str) -> bytes:  # noqa: ARG001
        nonlocal num_fetched, num_at_once, most_at_once
        num_fetched += 1
        num_at_once += 1
        most_at_once = max(most_at_once, num_at_once)
        await asyncio.sleep(0)
        num_at_once -= 1
        return IMAGE

    monkeypatch.setattr(UrlFetcher, "fetch", fetch)
    monkeypatch.setattr(images, "_MAX_LOADED_BYTES", 20 * len(IMAGE))
    body = {"images": ["https://a.example/"] * 500, "on_error": "report"}
    with running(ServerSettings(images=ImageSettings(allow_urls=True))) as server:
        data = server.client.post("/v1/embed", json=body).json()["data"]
    errors = [one["error"] for one in data if one["embedding"] is None]
    assert 480 <= len(errors) < 500
    assert "the images of one request may have" in errors[0]["message"]
    assert num_fetched < 40
    assert most_at_once <= 8


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that gives one answer, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(100)
