"""Clients that do not take their replies, or only slowly, hold neither memory nor connections."""

import asyncio
import gc
import io
import select
import shutil
import socket
import tarfile
import tracemalloc

import pytest
from fastapi import FastAPI, Response
from PIL import Image
from server.serving import encoded, make_index, running
from small_models import open_tiny

from perception_encoder.errors import ImageTruncatedError
from perception_encoder.index import Row
from perception_encoder.server import ServerSettings
from perception_encoder.server.http import connection as lingering
from perception_encoder.server.http.replies import PART_BYTES
from perception_encoder.sources import StoredImage

SIDE = 1500
NUM_SLOW = 12


@pytest.fixture(scope="module")
def large() -> bytes:
    """An image of 7 MB."""
    return encoded(Image.effect_noise((SIDE, SIDE), 100).convert("RGB"), "BMP")


def with_large_reply(app: FastAPI) -> None:
    """Add a route whose reply is in memory."""

    @app.get("/large")
    async def answer() -> Response:
        return Response(b"x" * 20_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory, large):
    folder = tmp_path_factory.mktemp("slow")
    (folder / "large.bmp").write_bytes(large)
    (folder / "text.png").write_bytes(b"not an image")
    (folder / "none.png").write_bytes(large)
    with tarfile.open(folder / "t.tar", "w") as archive:
        member = tarfile.TarInfo("in.bmp")
        member.size = len(large)
        archive.addfile(member, io.BytesIO(large))
        offset = archive.getmember("in.bmp").offset_data
    shutil.copy(folder / "t.tar", folder / "moved.tar")
    model = open_tiny()
    files = [folder / "large.bmp", folder / "none.png"]
    index = make_index(folder / "t.lance", model, files)
    vectors = model.embed_text(["a", "b", "c"])
    places = [("text.png", None, None), ("t.tar", "in.bmp", offset), ("moved.tar", "in.bmp", 1536)]
    rows = [
        Row(
            uri=str(folder / name), member=member, offset=offset, width=SIDE, height=SIDE,
            bytes=len(large) + number, mtime=0, metadata={"number": 10 + number},
        )
        for number, (name, member, offset) in enumerate(places)
    ]  # fmt: skip
    index.add(rows, vectors)
    (folder / "text.png").write_bytes(b"still not")
    settings = ServerSettings(indexes=(str(folder / "t.lance"),))
    with running(settings, model=model, change=with_large_reply) as running_server:
        yield running_server


def item(server, number: int) -> str:
    rows = server.client.get("/v1/items").json()["items"]
    return next(row["id"] for row in rows if row["metadata"].get("number") == number)


@pytest.mark.parametrize("number", [0, 11, 12], ids=["file", "in a tar", "tar written anew"])
def test_an_image_comes_as_it_is_stored(server, large, number):
    path = f"/v1/items/{item(server, number)}/image"
    reply = server.client.get(path)
    assert reply.content == large
    assert reply.headers["content-type"] == "image/bmp"
    assert int(reply.headers["content-length"]) == len(large)
    of_head = server.client.head(path)
    assert of_head.headers["content-length"] == reply.headers["content-length"]


def test_what_is_no_image_is_not_shown(server):
    assert server.client.get(f"/v1/items/{item(server, 10)}/image").status_code == 404


def ask(server, path: str, *, is_last: bool = True) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(100)
    client.connect(("127.0.0.1", server.port))
    end = "Connection: close\r\n\r\n" if is_last else "\r\n"
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{end}".encode())
    return client


@pytest.mark.parametrize("number", [0, 11, 12], ids=["file", "in a tar", "tar written anew"])
def test_slow_readers_hold_little_memory_and_get_everything(server, large, number):
    """All of them at once; the image is never in memory once for each."""
    path = f"/v1/items/{item(server, number)}/image"
    server.client.get(path)
    gc.collect()
    tracemalloc.start()
    clients = [ask(server, path) for _ in range(NUM_SLOW)]
    try:
        begun = [client.recv(2000) for client in clients]  # all are being answered
        assert all(part.startswith(b"HTTP/1.1 200") for part in begun)
        assert tracemalloc.get_traced_memory()[0] < NUM_SLOW * 4 * PART_BYTES
        for client, part in zip(clients, begun, strict=True):
            content = bytearray(part)
            while more := client.recv(2**20):
                content += more
            assert content.partition(b"\r\n\r\n")[2] == large
    finally:
        tracemalloc.stop()
        for client in clients:
            client.close()


def is_reset(client: socket.socket) -> bool:
    """Wait until the server ends a connection of which nothing is read."""
    poll = select.poll()
    poll.register(client, select.POLLHUP | select.POLLERR)
    return bool(poll.poll(100_000))


@pytest.mark.parametrize("path", ["/v1/items/ID/image", "/large", "/large?close"])
def test_who_reads_nothing_is_cut_off(server, monkeypatch, caplog, path):
    monkeypatch.setattr(lingering, "WRITE_SECONDS", 0.2)
    path = path.replace("ID", item(server, 0))
    with ask(server, path, is_last="close" in path) as client:
        assert is_reset(client)
    assert server.client.get("/healthz").status_code == 200
    assert "Traceback" not in caplog.text


def test_a_file_that_became_shorter_ends_its_reply(server, large, monkeypatch, caplog):
    read = StoredImage.read

    def cut(self, start, num_bytes):
        if start > 0:
            raise ImageTruncatedError(f"{self.item}: the file has become shorter", item=self.item)
        return read(self, start, num_bytes)

    monkeypatch.setattr(StoredImage, "read", cut)
    with ask(server, f"/v1/items/{item(server, 0)}/image") as client:
        content = b""
        while part := client.recv(2**20):
            content += part
    assert 0 < len(content) < len(large)
    assert "the file has become shorter" in caplog.text
    assert "Traceback" not in caplog.text


class FakeConnection(asyncio.Transport):
    """Takes what is written when it is told to."""

    def __init__(self) -> None:
        self.num_waiting = 0
        self.is_aborted = False

    def write(self, data):
        self.num_waiting += len(data)

    def get_write_buffer_size(self):
        return self.num_waiting

    def get_extra_info(self, _name, default=None):
        return default

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def is_closing(self):
        return self.is_aborted

    def abort(self):
        self.is_aborted = True


class Looks:
    """A loop whose only timer runs when it is told to."""

    def __init__(self) -> None:
        self.waiting = []

    def call_later(self, _seconds, work):
        self.waiting.append(work)
        return asyncio.TimerHandle(0.0, work, (), self)

    def get_debug(self):
        return False

    def _timer_handle_cancelled(self, _handle):
        pass

    def next(self) -> bool:
        """Run it; False where there is none."""
        if self.waiting:
            self.waiting.pop()()
            return True
        return False


def test_who_takes_enough_is_not_cut_off():
    connection, looks = FakeConnection(), Looks()
    transport = lingering.LingeringTransport(connection, looks, lambda: False)
    transport.write(b"x" * 100_000)
    for _ in range(5):
        assert looks.next()
        connection.num_waiting -= lingering.LEAST_BYTES  # just enough
    connection.num_waiting = 5
    assert looks.next()
    connection.num_waiting = 0  # all of it
    assert looks.next()
    assert not looks.next()
    transport.write(b"y" * 100_000)  # of the next reply
    connection.num_waiting -= 10
    assert looks.next()
    assert not connection.is_aborted
    connection.num_waiting -= lingering.LEAST_BYTES - 1  # too little
    assert looks.next()
    assert connection.is_aborted
    assert not looks.next()
