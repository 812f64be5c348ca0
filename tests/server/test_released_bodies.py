"""A body is freed when its request ends, whatever the end, and little is read without a key.

The collector of cycles is off in these tests: what is freed is freed by the request itself.
"""

import gc
import json
import socket
import threading
import time
import tracemalloc
import weakref

import pytest
from cli.command import serving
from server.serving import Running, image, in_base64, running

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.http.connection import TimedProtocol
from perception_encoder.server.http.requests import MOST_WITHOUT_KEY
from perception_encoder.server.options import AccessSettings

MIB = 2**20
SIZE = 2 * MIB
BIG = "x" * SIZE
KEY = "a-key-of-some-length"
KEYED = ServerSettings(access=AccessSettings(key_hashes=(hash_key(KEY),)))

ROUTES = (
    "/v1/embed", "/v1/similarity", "/v1/classify", "/v1/search", "/v1/embeddings", "/embed",
    "/clip/embed_image", "/clip/embed_text", "/clip/compare", "/perception_encoder/embed_image",
    "/model/add", "/model/remove", "/knn-service", "/metadata", "/nowhere", "/healthz",
)  # fmt: skip
# Every field that any of them knows: the image that each reads is none.
EVERY_FIELD = json.dumps(
    {
        **dict.fromkeys(("image", "subject", "input", "inputs", "text"), f"data:image/png,{BIG}"),
        "images": ["***"], "a": [{"image": "***"}], "b": [{"image": "***"}], "labels": ["a"],
        "terms": [{"image": "***"}], "prompt": ["a"], "model_id": "none", "ids": ["none"],
    }
).encode()  # fmt: skip
BODIES = {
    "of another form": json.dumps({"no_field": BIG, "image": 1}).encode(),
    "no JSON": b'{"image": "' + BIG.encode(),
    "of a bad image": EVERY_FIELD,
}
FORM = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + BIG.encode()


@pytest.fixture(scope="module")
def server():
    with running() as running_server:
        yield running_server


@pytest.fixture(scope="module")
def keyed_server():
    with running(KEYED) as running_server:
        yield running_server


@pytest.fixture
def held():
    """Bytes held now, counted without the collector's help."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()


def head(path: str, num_bytes: int, kind: str, *more: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *more)
    return "\r\n".join((*lines, f"Content-Length: {num_bytes}", "", "")).encode()


def send(
    server: Running, path: str, body: bytes, kind: str = "application/json", *, missing: int = 0
) -> bytes:
    """Send a body that may end too early, and return how the reply begins."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=100) as client:
        client.sendall(head(path, len(body) + missing, kind) + body)
        if missing:
            client.shutdown(socket.SHUT_WR)
        try:
            return client.recv(12)
        except ConnectionError:
            return b""


def is_freed(held, before: int) -> bool:
    """Wait until less than half of one body more is held than before."""
    end = time.monotonic() + 100
    while held() - before > SIZE / 2 and time.monotonic() < end:
        time.sleep(0.01)
    return held() - before <= SIZE / 2


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "cut off"])
@pytest.mark.parametrize("kind", BODIES)
def test_a_refused_body_is_freed(server, held, kind, is_whole):
    body = BODIES[kind]
    for path in ROUTES:
        send(server, path, b"{}")  # what its first request makes, stays
        before = held()
        reply = send(server, path, body, missing=0 if is_whole else 100)
        assert not is_whole or reply[9:10] in b"245", (path, reply)
        assert is_freed(held, before), (path, held() - before)


def test_a_form_that_is_cut_off_is_freed(server, held):
    before = held()
    for missing in (0, 100):
        for path in ("/v1/embed", "/v1/search", "/clip/compare"):
            send(server, path, FORM, "multipart/form-data; boundary=b", missing=missing)
    assert is_freed(held, before)


QUEUED = {
    "a bad image": {"texts": ["a"] * 500, "images": [BIG]},
    "several images": {"images": [in_base64(image(0, 900, 700))] * 3 + [BIG]},
    "texts": {"texts": ["a " * 5000] * 500},
}


@pytest.mark.parametrize("kind", QUEUED)
def test_what_a_client_queued_that_went_away_is_freed(server, held, kind):
    """It leaves while something is decoded, computed or waits."""
    body = json.dumps(QUEUED[kind]).encode()
    before = held()
    for _ in range(6):
        with socket.create_connection(("127.0.0.1", server.port), timeout=100) as client:
            client.sendall(head("/v1/embed", len(body), "application/json") + body)
    assert server.client.get("/healthz").status_code == 200
    assert is_freed(held, before)


@pytest.mark.usefixtures("held")
def test_a_lost_connection_is_freed(server, monkeypatch):
    made: weakref.WeakSet[TimedProtocol] = weakref.WeakSet()
    begin = TimedProtocol.connection_made

    def note(self, transport):
        made.add(self)
        begin(self, transport)

    monkeypatch.setattr(TimedProtocol, "connection_made", note)
    for path in ("/v1/embed", "/nowhere", "/v1/search"):
        for missing in (0, 100):
            send(server, path, BODIES["no JSON"], missing=missing)
    end = time.monotonic() + 100  # a connection may be read for a while after its reply
    while made and time.monotonic() < end:
        time.sleep(0.01)
    assert not made


@pytest.mark.parametrize("path", [*ROUTES[:-2], "/v1/session", "/model/clear"])
def test_the_key_is_asked_for_before_the_body_is_read(keyed_server, path):
    """The body never comes: the reply cannot have waited for it."""
    with socket.create_connection(("127.0.0.1", keyed_server.port), timeout=100) as client:
        form = "multipart/form-data; boundary=b"
        begun = b"x" * MOST_WITHOUT_KEY
        client.sendall(head(path, 60 * MIB, form) + begun)
        assert client.recv(12) == b"HTTP/1.1 401"


def test_hardly_anything_is_read_without_a_key(keyed_server, held):
    """Uploads without a key that go on and on, all at once."""
    clients = [socket.create_connection(("127.0.0.1", keyed_server.port)) for _ in range(5)]
    begun = b'{"image": "' + b"x" * (2 * MIB)
    before = held()

    def upload(client: socket.socket, path: str) -> None:
        client.settimeout(100)
        client.sendall(head(path, 60 * MIB, "application/json"))
        for _ in range(3):
            client.sendall(begun)

    paths = ("/clip/embed_image", "/v1/search", "/v1/embed", "/knn-service", "/embed")
    threads = [
        threading.Thread(target=upload, args=pair) for pair in zip(clients, paths, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        assert [client.recv(12) for client in clients] == [b"HTTP/1.1 401"] * 5
        for thread in threads:
            thread.join(100)
        assert is_freed(held, before)
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"api_key": KEY, "text": "a cat", "perception_encoder_version_id": "pe-nano"}, 200),
        ({"text": "a cat", "api_key": KEY}, 200),
        ({"api_key": KEY, "text": ["a " * 100] * 400}, 200),  # larger than what is looked at
        ({"text": "a " * MOST_WITHOUT_KEY, "api_key": KEY}, 401),
        ({"api_key": f"{KEY}!", "text": "a cat"}, 401),
        ({"api_key": [KEY], "text": "a cat"}, 401),
        ({"nested": {"api_key": KEY}, "text": "a cat"}, 401),
        ([{"api_key": KEY}], 401),
    ],
)
def test_a_key_in_the_body_stands_where_the_body_begins(keyed_server, body, status):
    reply = keyed_server.client.post("/perception_encoder/embed_text", json=body)
    assert reply.status_code == status
    if status == 401:
        assert "key" in reply.json()["message"]
        headers = {"Authorization": f"Bearer {KEY}"}
        again = keyed_server.client.post("/clip/embed_text", json=body, headers=headers)
        assert again.status_code != 401


def test_a_process_does_not_grow_with_requests_that_fail(tmp_path):
    """The real program: 30 refused bodies of 5 MB and 20 that were cut off."""
    large = "x" * 5 * MIB
    bodies = (json.dumps({"no_field": large, "image": 1}).encode(), b'{"image": "' + large.encode())
    with serving(folder=tmp_path, PE_PRELOAD="0") as (client, process):
        port = client.base_url.port

        def ask(path: str, body: bytes, missing: int = 0) -> None:
            with socket.create_connection(("127.0.0.1", port), timeout=100) as one:
                one.sendall(head(path, len(body) + missing, "application/json"))
                one.sendall(body)
                if not missing:
                    one.recv(12)

        def resident() -> int:
            with open(f"/proc/{process.pid}/status") as status:
                line = next(line for line in status if line.startswith("VmRSS"))
            return int(line.split()[1]) * 1024

        for path in ROUTES:
            ask(path, bodies[0])
        before = resident()
        for number in range(30):
            ask(ROUTES[number % 8], bodies[number % 2])
        for number in range(20):
            ask(ROUTES[number % 8], bodies[0], 100)
        assert client.get("/healthz").status_code == 200
        assert resident() - before < 80 * MIB  # of 250 MB that were sent
