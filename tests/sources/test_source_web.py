"""Images over http, from a server on loopback that misbehaves in many ways."""

import io
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest
from local_http import serve_requests
from sources.source_samples import open_one, write

from perception_encoder.errors import ImageUnreadableError, SourceError
from perception_encoder.sources import SourceOptions, open_sources, read_image

IMAGE = b"\x89PNG" + bytes(range(256)) * 20


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1  # type: ignore[attr-defined]
        path, _, number = self.path.lstrip("/").partition("/")
        getattr(self, f"_{path}")(number)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _ok(self, _: str) -> None:
        self._answer(200, IMAGE)

    def _missing(self, _: str) -> None:
        self._answer(404)

    def _flaky(self, number: str) -> None:
        is_last = self.server.asked[self.path] > int(number)  # type: ignore[attr-defined]
        self._answer(200 if is_last else 503, IMAGE if is_last else b"busy")

    def _loop(self, _: str) -> None:
        self._answer(302, Location=self.path)

    def _hop(self, number: str) -> None:
        self._answer(302, Location="/ok" if number == "0" else f"/hop/{int(number) - 1}")

    def _file(self, _: str) -> None:
        self._answer(302, Location="file:///etc/passwd")

    def _slow(self, _: str) -> None:
        self.server.let_go.wait(20)  # type: ignore[attr-defined]
        self.close_connection = True

    def _drip(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.let_go.wait(0.02):  # type: ignore[attr-defined]
            try:
                self.wfile.write(b"x")
            except OSError:
                break
        self.close_connection = True

    def _big(self, _: str) -> None:
        """Announce much and send it only if somebody waits for it."""
        self.send_response(200)
        self.send_header("Content-Length", str(10**12))
        self.end_headers()
        self.server.let_go.wait(20)  # type: ignore[attr-defined]
        self.close_connection = True

    def _endless(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while not self.server.let_go.is_set():  # type: ignore[attr-defined]
                self.wfile.write(b"x" * 65536)
        except OSError:
            pass
        self.close_connection = True

    def _cut(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def _named(self, _: str) -> None:
        self._answer(200, self.headers["User-Agent"].encode())


@pytest.fixture
def server():
    with serve_requests(_Handler) as server:
        server.asked = Counter()  # type: ignore[attr-defined]
        server.let_go = threading.Event()  # type: ignore[attr-defined]
        server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        yield server
        server.let_go.set()  # type: ignore[attr-defined]


def fetch(url, **options):
    (item,) = open_one(url, **({"timeout_seconds": 5.0} | options)).items()
    assert (item.uri, item.is_remote, item.bytes, item.mtime) == (url, True, None, None)
    return item.read()


def test_a_url_is_fetched_when_it_is_read_and_not_before(server):
    (item,) = open_one(f"{server.url}/ok").items()
    assert not server.asked
    assert item.read() == IMAGE
    assert read_image(item.uri) == IMAGE
    assert read_image(item.uri, num_bytes=5) == IMAGE


def test_questions_and_braces_in_a_url_are_its_own(server):
    with pytest.raises(ImageUnreadableError, match="404"):
        fetch(f"{server.url}/missing/{{1..2}}?x=[1]*")
    assert len(server.asked) == 1


def test_the_client_says_who_it_is(server):
    assert fetch(f"{server.url}/named").startswith(b"perception-encoder/")


def test_a_status_other_than_success_is_told_and_not_asked_for_again(server):
    with pytest.raises(ImageUnreadableError, match="missing: the server answered 404 Not Found"):
        fetch(f"{server.url}/missing")
    assert server.asked["/missing"] == 1


def test_a_busy_server_is_asked_again_twice(server):
    assert fetch(f"{server.url}/flaky/2") == IMAGE
    with pytest.raises(ImageUnreadableError, match="answered 503 Service Unavailable"):
        fetch(f"{server.url}/flaky/3")
    assert server.asked == {"/flaky/2": 3, "/flaky/3": 3}


def test_redirects_are_followed_but_not_for_ever(server):
    assert fetch(f"{server.url}/hop/3") == IMAGE
    with pytest.raises(ImageUnreadableError, match="redirect"):
        fetch(f"{server.url}/loop")
    assert server.asked["/loop"] <= 7
    with pytest.raises(ImageUnreadableError, match="redirect"):
        fetch(f"{server.url}/hop/10")


def test_a_redirect_never_leads_to_a_file(server):
    with pytest.raises(ImageUnreadableError, match="file"):
        fetch(f"{server.url}/file")


def test_a_server_that_does_not_answer_costs_a_bounded_time(server):
    start = time.monotonic()
    with pytest.raises(ImageUnreadableError, match="slow: ReadTimeout"):
        fetch(f"{server.url}/slow", timeout_seconds=0.1)
    assert time.monotonic() - start < 15
    assert server.asked["/slow"] == 3


def test_an_answer_that_drips_costs_a_bounded_time(server):
    start = time.monotonic()
    with pytest.raises(ImageUnreadableError, match="drip: the answer comes too slowly"):
        fetch(f"{server.url}/drip", timeout_seconds=0.1)
    assert time.monotonic() - start < 15


def test_what_announces_more_than_the_limit_is_not_read(server):
    start = time.monotonic()
    with pytest.raises(ImageUnreadableError, match="larger than the limit of 134,217,728 bytes"):
        fetch(f"{server.url}/big")
    assert time.monotonic() - start < 15  # the server waits longer


def test_what_sends_more_than_the_limit_is_cut_off(server):
    with pytest.raises(ImageUnreadableError, match="larger than the limit of 1,000,000 bytes"):
        fetch(f"{server.url}/endless", max_bytes=1_000_000)
    assert len(fetch(f"{server.url}/ok", max_bytes=len(IMAGE))) == len(IMAGE)


def test_an_answer_that_ends_too_early_is_an_error(server):
    with pytest.raises(ImageUnreadableError, match="cut: RemoteProtocolError"):
        fetch(f"{server.url}/cut")
    assert server.asked["/cut"] == 3


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/a.png", "ConnectError"),
        ("http://[::1/a.png", "check the URL"),
        ("http://", "http://: "),
        ("http:///a.png", "http:///a.png: "),
    ],
)
def test_urls_that_lead_nowhere(url, message):
    with pytest.raises(ImageUnreadableError) as caught:
        fetch(url, timeout_seconds=1.0)
    assert message in str(caught.value)


def test_many_threads_share_one_client(server):
    urls = "\n".join(f"{server.url}/ok/{number}" for number in range(100)).encode()
    (source,) = open_sources(["-"], SourceOptions(), io.BytesIO(urls))
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda item: item.read(), source.items())) == {IMAGE}
    assert sum(server.asked.values()) == 100


def test_urls_in_a_table(server, tmp_path):
    table = write(tmp_path / "t.csv", f"url,caption\n{server.url}/ok,words\n".encode())
    (item,) = open_one(table).items()
    assert (item.read(), item.metadata) == (IMAGE, {"caption": "words"})


def test_archives_and_tables_over_http_are_refused_with_advice():
    for name in ("https://x.example/a.tar", "https://x.example/a.parquet"):
        with pytest.raises(SourceError, match="not read over http; download it"):
            open_one(name)


def test_without_a_network_nothing_is_asked(server):
    with pytest.raises(ImageUnreadableError, match="on a network, which may not be used here"):
        fetch(f"{server.url}/ok", allow_network=False)
    with pytest.raises(ImageUnreadableError, match="on a network"):
        read_image(f"{server.url}/ok", allow_network=False)
    assert not server.asked
