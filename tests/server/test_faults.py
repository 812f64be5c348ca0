"""What goes wrong in the world: clients that go away or dawdle, full queues, dying workers."""

import concurrent.futures
import contextlib
import json
import re
import socket
import threading
import time

import httpx2
import numpy as np
import pytest
from server.serving import encoded, image, in_base64, running
from small_models import CORE, FP32_ON_CPU, CountingBackend, drawing, open_tiny

from perception_encoder.backends import open_random_backend
from perception_encoder.errors import CheckpointError
from perception_encoder.server import ServerSettings
from perception_encoder.server.http import connection as protocol
from perception_encoder.server.options import AccessSettings, ModelSettings, QueueSettings


class Gated(CountingBackend):
    """Computes images only when let go; can be told to end its worker."""

    def __init__(self) -> None:
        super().__init__(open_random_backend(CORE, FP32_ON_CPU))
        self.gate = threading.Event()
        self.gate.set()
        self.is_deadly = False
        self.num_entered = 0

    def encode_image(self, pixels):
        self.num_entered += 1
        assert self.gate.wait(100)
        if self.is_deadly:
            raise SystemExit("killed")
        return super().encode_image(pixels)


@pytest.fixture
def backend():
    gated = Gated()
    yield gated
    gated.gate.set()


def started(backend: Gated, *, body_timeout_seconds: float = 30.0, **queue):
    settings = ServerSettings(
        queue=QueueSettings(**{"capacity": 8, "timeout_seconds": 100, **queue}),
        access=AccessSettings(body_timeout_seconds=body_timeout_seconds),
    )
    return running(settings, model=open_tiny(backend=backend))


def post(url: str, body: dict) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/embed", json=body, timeout=100)


def until(condition, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def received(client: socket.socket) -> bytes:
    """What comes until the connection ends, however that is."""
    with client:
        try:
            return client.recv(100)
        except ConnectionError:
            return b""


def waiting(server) -> int:
    return server.client.get("/v1/models").json()["data"][0]["waiting"]["image"]


def test_a_killed_worker_is_replaced_and_who_waited_gets_503(backend):
    one = {"images": [in_base64(image(1))]}
    with started(backend) as server:
        backend.is_deadly = True
        replies = [server.client.post("/v1/embed", json=one) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [503] * 3
        assert replies[0].headers["retry-after"] == "1"
        backend.is_deadly = False
        assert server.client.post("/v1/embed", json=one).status_code == 200
        crashes = re.findall(r'pe_worker_crashes_total{.*"image".*} (\S+)', metrics(server))
        assert crashes == ["3.0"]


def test_healthz_fails_when_the_model_cannot_answer(backend):
    with started(backend) as server:
        assert server.client.get("/healthz").status_code == 200
        worker = server.services.served_models.states()[0].worker
        worker._images._last_done = worker._texts._last_done = -1e9
        backend.is_deadly = True
        reply = server.client.get("/healthz")
        assert (reply.status_code, reply.json()["status"]) == (503, "unhealthy")


def metrics(server) -> str:
    return server.client.get("/metrics").text


def test_a_full_queue_answers_429_and_recovers(backend):
    one = {"images": [in_base64(image(1))]}
    with started(backend) as server, concurrent.futures.ThreadPoolExecutor(12) as pool:
        backend.gate.clear()
        first = pool.submit(post, server.url, one)
        until(lambda: backend.num_entered == 1)
        others = [pool.submit(post, server.url, one) for _ in range(8)]
        until(lambda: waiting(server) == 8)
        reply = post(server.url, one)
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["code"] == "queue_full"
        assert server.client.get("/v1/models").status_code == 200
        assert post(server.url, {"texts": ["a"]}).status_code == 200  # has a queue of its own
        backend.gate.set()
        assert {future.result().status_code for future in (first, *others)} == {200}
        assert post(server.url, one).status_code == 200
        assert 'pe_errors_total{code="queue_full"} 1.0' in metrics(server)


def test_what_a_client_queued_that_went_away_is_not_computed(backend):
    body = json.dumps({"images": [in_base64(image(n)) for n in range(4)]}).encode()
    head = (
        b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with started(backend) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
        backend.gate.clear()
        first = pool.submit(post, server.url, {"images": [in_base64(image(9))]})
        until(lambda: backend.num_entered == 1)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head + body)
            until(lambda: waiting(server) == 4)
        until(lambda: server.services.served_models.states()[0].worker._images._coming == 0)
        until(lambda: 'status="499"' in metrics(server))
        backend.gate.set()
        assert first.result().status_code == 200
        until(lambda: waiting(server) == 0)
        assert post(server.url, {"images": [in_base64(image(1))]}).status_code == 200
        assert backend.num_images == 2


def test_a_client_gone_in_the_middle_of_its_body_leaves_nothing_behind(backend):
    with started(backend) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(
                    b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    b'Content-Length: 1000\r\n\r\n{"texts": ["a'
                )
        until(lambda: metrics(server).count("pe_request") > 0)
        assert post(server.url, {"texts": ["a"]}).status_code == 200


def test_a_body_that_dawdles_is_ended(backend):
    with started(backend, body_timeout_seconds=1.0) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=100) as client:
            client.sendall(
                b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000\r\n\r\n"
            )
            answer = b""
            while part := client.recv(4096):
                answer += part
        assert answer.startswith(b"HTTP/1.1 408")
        assert post(server.url, {"texts": ["a"]}).status_code == 200


def test_a_head_that_dawdles_is_cut_off(backend, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with started(backend) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for client in clients:
            client.settimeout(100)
            client.sendall(b"GET /v1/models HT")
        assert [received(client) for client in clients] == [b""] * 20
        monkeypatch.undo()
        assert post(server.url, {"texts": ["a"]}).status_code == 200


def test_a_head_that_never_ends_is_refused(backend):
    with (
        started(backend) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=100) as client,
    ):
        client.sendall(b"GET /v1/models HTTP/1.1\r\n")
        for number in range(3000):
            client.sendall(b"X-%d: %s\r\n" % (number, b"a" * 100))
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_of_many_images_the_good_ones_are_answered_and_the_bad_ones_told_why(backend):
    """80 bad images among 800 good ones, from many connections."""
    good = [image(n) for n in range(20)]
    kinds = [b"not an image", b"", good[0][:80], encoded(drawing(2), "JPEG")[:200]]
    expected = open_tiny(backend=open_random_backend(CORE, FP32_ON_CPU)).embed_images(good)
    numbers = list(range(880))
    per_request = 50

    def ask(start: int) -> list[tuple[int, dict]]:
        part = numbers[start : start + per_request]
        images = [in_base64(kinds[n // 11 % 4] if n % 11 == 10 else good[n % 20]) for n in part]
        for _ in range(200):
            reply = clients[start // per_request % 8].post(
                "/v1/embed", json={"images": images, "on_error": "report"}
            )
            if reply.status_code != 429:
                break
            time.sleep(0.05)
        assert reply.status_code == 200, reply.text
        return list(zip(part, reply.json()["data"], strict=True))

    with started(backend, capacity=512) as server, contextlib.ExitStack() as closed:
        clients = [
            closed.enter_context(httpx2.Client(base_url=server.url, timeout=100)) for _ in range(8)
        ]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [
                pair for part in pool.map(ask, range(0, len(numbers), per_request)) for pair in part
            ]
    assert [number for number, _ in answers] == numbers
    num_bad = 0
    for number, answer in answers:
        if number % 11 == 10:
            num_bad += 1
            assert f"image {number % per_request}" in answer["error"]["message"]
        else:
            assert np.allclose(answer["embedding"], expected[number % 20], atol=2e-5)
    assert num_bad == 80


def test_idle_models_are_closed_and_come_back():
    opened: list[str] = []

    def open_model(spec: str):
        opened.append(spec)
        return open_tiny()

    models = ModelSettings(unload_after_seconds=0.3)
    with running(ServerSettings(models=models), open_model=open_model) as server:
        until(lambda: not server.client.get("/v1/models").json()["data"][0]["loaded"])
        assert server.client.get("/healthz").status_code == 200
        assert post(server.url, {"texts": ["a"]}).status_code == 200
        assert len(opened) == 2


def test_a_model_that_cannot_be_opened_is_left_alone_for_a_while():
    tries: list[str] = []

    def open_model(spec: str):
        tries.append(spec)
        if len(tries) < 3:
            raise CheckpointError(f"weights.pt is cut short (try {len(tries)})")
        if len(tries) == 3:
            raise MemoryError  # of no words, and not one of the package's own
        return open_tiny()

    def refused(reason: str, pause: range) -> None:
        reply = server.client.post("/v1/embed", json={"texts": ["a"]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_unavailable")
        assert reason in reply.json()["error"]["message"]
        assert int(reply.headers["retry-after"]) in pause

    with running(open_model=open_model) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        (slot,) = server.services.served_models._slots.values()
        assert slot.tried_again_at - time.monotonic() <= 5  # it was opened at the start
        slot.tried_again_at += 60  # so that the pause does not end while it is looked at
        for _ in range(3):
            refused("cut short (try 1) (it is tried again in ", range(1, 66))
        assert server.client.get("/healthz").status_code == 503
        asked = [pool.submit(refused, "(try 1)", range(1, 66)) for _ in range(32)]
        assert [future.result() for future in asked] == [None] * 32
        assert len(tries) == 1
        slot.tried_again_at = 0.0
        refused("(try 2)", range(6, 11))
        refused("(try 2)", range(6, 11))
        slot.tried_again_at = 0.0
        refused("MemoryError", range(11, 21))
        assert len(tries) == 3
        slot.tried_again_at = 0.0
        assert post(server.url, {"texts": ["a"]}).status_code == 200
        assert server.client.get("/healthz").status_code == 200
        assert slot.num_failures == 0


def test_a_model_whose_weights_were_overwritten_is_opened_again(monkeypatch):
    opened = []

    def refuse(_):
        raise CheckpointError("weights.pt was overwritten while the model was open")

    def open_model(_):
        model = open_tiny()
        if not opened:
            monkeypatch.setattr(model, "embed_tokens", refuse)
        opened.append(model)
        return model

    with running(open_model=open_model) as server:
        assert post(server.url, {"texts": ["a"]}).status_code == 503
        assert post(server.url, {"texts": ["a"]}).status_code == 200
        assert len(opened) == 2


def test_memory_is_kept_below_the_cap_by_closing_what_was_used_longest_ago():
    models = ModelSettings(
        names=("PE-Core-B16-224", "PE-Core-L14-336", "pe-nano"),
        preload=False,
        max_bytes=4 * (671_000_000 + 10_000_000) + 100_000_000,
    )
    with running(ServerSettings(models=models), open_model=lambda _: open_tiny()) as server:

        def loaded(name: str) -> list[str]:
            assert post(server.url, {"texts": ["a"], "model": name}).status_code == 200
            listed = server.client.get("/v1/models").json()["data"]
            return [one["id"].rpartition("/")[2] for one in listed if one["loaded"]]

        assert loaded("PE-Core-B16-224") == ["PE-Core-B16-224"]
        assert loaded("pe-nano") == ["PE-Core-B16-224", "pe-nano"]
        assert loaded("PE-Core-L14-336") == ["PE-Core-L14-336", "pe-nano"]
