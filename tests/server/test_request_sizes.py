"""Large texts and large requests: refused at once or served, and nobody else waits for them."""

import concurrent.futures
import threading

import numpy as np
import openai
import pytest
from server.serving import image, in_base64, running
from small_models import TOKENIZER, open_tiny

from perception_encoder.preprocess.tokenizer import MAX_TEXT_BYTES
from perception_encoder.server import ServerSettings
from perception_encoder.server.options import AccessSettings, QueueSettings

HUGE = "é" * (MAX_TEXT_BYTES // 2 + 1)
IMAGE = in_base64(image(1))


@pytest.fixture(scope="module")
def server():
    with running() as started:
        yield started


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/embed", {"texts": ["a", HUGE]}),
        ("/v1/embeddings", {"input": ["a", HUGE]}),
        ("/v1/similarity", {"a": [{"text": "a"}], "b": [{"text": HUGE}]}),
        ("/v1/classify", {"images": [IMAGE], "labels": ["a", HUGE]}),
        ("/v1/classify", {"images": [IMAGE], "labels": ["a" * 999], "templates": ["{}" * 99_999]}),
        ("/embed", {"inputs": ["a", HUGE]}),
        ("/embed", {"inputs": ["a", HUGE], "truncate": False}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": [HUGE]}}),
        ("/v2/embed", {"texts": ["a", HUGE], "truncate": "NONE"}),
        ("/api/embed", {"input": ["a", HUGE]}),
        ("/perception_encoder/embed_text", {"text": ["a", HUGE]}),
        (
            "/perception_encoder/compare",
            {"subject": IMAGE, "prompt": ["a", HUGE], "prompt_type": "text"},
        ),
    ],
)
def test_a_text_above_the_limit_is_refused(server, route, body):
    reply = server.client.post(route, json=body)
    assert reply.status_code == 400
    assert "1,048,576" in reply.text


def test_the_position_of_a_text_above_the_limit_is_that_among_all_inputs(server):
    body = {"input": [f"data:image/png;base64,{IMAGE}", "a", HUGE]}
    error = server.client.post("/v1/embeddings", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("text_too_large", "input[2]")


def test_a_reply_out_of_all_proportion_is_refused(server):
    body = {"images": [IMAGE] * 500, "labels": ["a" * 1_000_000]}
    reply = server.client.post("/v1/classify", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "too_large")


def test_nobody_waits_for_a_long_text_to_be_tokenized(monkeypatch):
    is_free = threading.Event()
    encode = type(TOKENIZER).encode

    def slow_encode(self, texts):
        if any("slow" in text for text in texts):
            assert is_free.wait(100)
        return encode(self, texts)

    monkeypatch.setattr(type(TOKENIZER), "encode", slow_encode)
    with running() as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        slow = [
            pool.submit(server.client.post, "/v1/embed", json={"texts": ["slow " * 1000]})
            for _ in range(4)
        ]
        try:
            for _ in range(3):
                reply = server.client.post("/v1/embed", json={"texts": ["cat"]})
                assert reply.status_code == 200
            assert not any(one.done() for one in slow)
        finally:
            is_free.set()
        assert [one.result().status_code for one in slow] == [200] * 4


@pytest.mark.parametrize("capacity", [16, 1024])
def test_as_many_inputs_as_openai_takes_are_served_whatever_the_queue_holds(capacity):
    settings = ServerSettings(queue=QueueSettings(capacity=capacity))
    texts = [f"a cat {n}" for n in range(2048)]
    with running(settings) as server:
        data = server.client.post("/v1/embeddings", json={"input": texts}).json()["data"]
        assert [one["index"] for one in data] == list(range(2048))
        vectors = np.array([one["embedding"] for one in data], np.float32)
        np.testing.assert_allclose(vectors, server.model.embed_text(texts), atol=1e-6)
        reply = server.client.post("/v1/embeddings", json={"input": [*texts, "one more"]})
        assert reply.status_code == 400
        images = {"images": [IMAGE] * 100}
        assert len(server.client.post("/v1/embed", json=images).json()["data"]) == 100


@pytest.mark.parametrize("capacity", [128, 1024])
def test_openais_client_gets_ten_large_requests_at_once_served(capacity):
    settings = ServerSettings(queue=QueueSettings(capacity=capacity))
    with running(settings, model=open_tiny()) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")

        def embed(start: int) -> int:
            texts = [f"a cat {n}" for n in range(start, start + 500)]
            return len(client.embeddings.create(model="pe-nano", input=texts).data)

        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            assert list(pool.map(embed, range(0, 5000, 500))) == [500] * 10
        assert server.services.settings.access == AccessSettings()
