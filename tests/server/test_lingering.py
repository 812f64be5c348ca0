"""How connections end: a reply is never lost to a client that was still sending, or just began."""

import itertools
import socket
import threading
from collections import deque

import pytest
import uvicorn
from server.serving import running

from perception_encoder.server import ServerSettings
from perception_encoder.server.http import connection as lingering
from perception_encoder.server.http import connection as protocol
from perception_encoder.server.http.connection import TimedProtocol
from perception_encoder.server.options import AccessSettings

SMALL = AccessSettings(max_body_bytes=100_000)
HEAD = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
ASKED = HEAD + b'Content-Length: 16\r\n\r\n{"texts": ["a"]}'
PART = b"x" * 100_000


def connected(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=100)


def all_of(client: socket.socket) -> bytes:
    """What comes until the server ends its half; fails if it resets the connection."""
    got = b""
    while part := client.recv(65536):
        got += part
    return got


@pytest.mark.parametrize("num_parts", [2, 90])
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_too_large_is_told_so_even_to_who_sends_it_all_first(num_parts, is_announced):
    with running(ServerSettings(access=SMALL)) as server, connected(server) as client:
        if is_announced:
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (num_parts * len(PART)))
            for _ in range(num_parts):
                client.sendall(PART)
        else:
            client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(num_parts):
                client.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))
            client.sendall(b"0\r\n\r\n")
        reply = all_of(client)
        assert reply.startswith(b"HTTP/1.1 413")
        assert b"too_large" in reply


def test_a_busy_server_tells_so_even_to_who_sends_a_body(monkeypatch):
    limited = uvicorn.Config.__init__

    def init(self, *args, **options):
        limited(self, *args, **options, limit_concurrency=3)

    monkeypatch.setattr(uvicorn.Config, "__init__", init)
    with running() as server, connected(server), connected(server), connected(server) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (90 * len(PART)))
        for _ in range(90):
            client.sendall(PART)
        assert all_of(client).startswith(b"HTTP/1.1 503")


def test_who_never_stops_sending_is_cut_off(monkeypatch):
    monkeypatch.setattr(lingering, "_TOTAL_SECONDS", 0.3)
    with running(ServerSettings(access=SMALL)) as server, connected(server) as client:
        client.sendall(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
        with pytest.raises(ConnectionError):
            deque(map(client.sendall, itertools.repeat(PART)), maxlen=0)


def test_the_rest_of_an_answered_body_may_not_take_for_ever(monkeypatch):
    monkeypatch.setattr(protocol, "_REST_SECONDS", 0.3)
    with running() as server, connected(server) as client:
        client.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        assert all_of(client).startswith(b"HTTP/1.1 404")


def test_a_request_that_comes_as_its_connection_expires_is_answered(monkeypatch):
    """The expiry is held up until the request lies in the server's socket, unread."""
    monkeypatch.setattr(protocol, "KEEP_ALIVE_SECONDS", 0.5)
    expiring, sent = threading.Event(), threading.Event()
    expire = TimedProtocol.timeout_keep_alive_handler

    def late(self):
        if self.client == address:
            expiring.set()
            assert sent.wait(100)
        expire(self)

    with running() as server, connected(server) as client:
        address = client.getsockname()
        monkeypatch.setattr(TimedProtocol, "timeout_keep_alive_handler", late)
        client.sendall(ASKED)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert expiring.wait(100)
        client.sendall(ASKED)
        sent.set()
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_expires(monkeypatch):
    monkeypatch.setattr(protocol, "KEEP_ALIVE_SECONDS", 0.5)
    with running() as server, connected(server) as client:
        client.sendall(ASKED)
        assert all_of(client).startswith(b"HTTP/1.1 200")
