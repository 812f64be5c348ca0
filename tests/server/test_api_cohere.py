"""POST /v2/embed with Cohere's own clients, and what they cannot send."""

import base64

import numpy as np
import pytest
from server.other_clients import run_client
from server.serving import data_uri, image, running

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings, ModelSettings
from perception_encoder.vectors import normalize_rows

KEY = "a-key-of-some-length"
CLOSE = 2e-5
TEXTS = ["a cat", "a dog"]


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(
        models=ModelSettings(aliases=(("embed-v4.0", "pe-nano"),)),
        access=AccessSettings(key_hashes=(hash_key(KEY),), max_items=20),
    )
    with running(settings) as running_server:
        running_server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running_server


@pytest.fixture(scope="module")
def replies(server):
    """What the client of the package `cohere` returned for each call."""
    return run_client("cohere_client.py", server.url, KEY, data_uri(image(1)))


def test_the_client_gets_every_type_of_embedding(server, replies):
    expected = server.model.embed_text(TEXTS)
    reply = replies["texts"]
    assert reply["response_type"] == "embeddings_by_type"
    assert reply["texts"] == TEXTS
    assert reply["meta"]["billed_units"]["input_tokens"] > 0
    found = reply["embeddings"]
    assert np.allclose(found["float"], expected, atol=CLOSE)
    decoded = [np.frombuffer(base64.b64decode(one), "<f4") for one in found["base64"]]
    assert np.allclose(decoded, expected, atol=CLOSE)
    cosines = normalize_rows(np.float32(found["int8"])) @ expected.T
    assert np.allclose(np.diag(cosines), 1, atol=1e-3)
    assert np.array_equal(np.array(found["uint8"]) - 128, found["int8"])
    bits = np.unpackbits(np.uint8(found["ubinary"]), axis=1)[:, : expected.shape[1]]
    assert np.array_equal(bits, np.array(found["float"]) > 0)
    assert np.array_equal(np.array(found["ubinary"]) - 128, found["binary"])


def test_the_client_gets_images_and_mixed_inputs(server, replies):
    expected = server.model.embed_images([image(1)])
    cut = normalize_rows(expected[:, :8])
    assert np.allclose(replies["images"]["embeddings"]["float"], cut, atol=10 * CLOSE)
    assert replies["images"]["meta"]["billed_units"]["images"] == 1
    mixed = np.concatenate([expected, server.model.embed_text(TEXTS[:1])])
    assert np.allclose(replies["inputs"]["embeddings"]["float"], mixed, atol=CLOSE)
    assert np.allclose(replies["later"], expected, atol=CLOSE)


def test_the_client_is_told_what_is_wrong(replies):
    found = {
        name: (replies[name]["status"], replies[name]["kind"])
        for name in ("too long", "unknown model", "stranger")
    }
    assert found == {
        "too long": (400, "BadRequestError"),
        "unknown model": (404, "NotFoundError"),
        "stranger": (401, "UnauthorizedError"),
    }
    assert "texts[0]" in replies["too long"]["body"]["message"]


TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": data_uri(image(1))}}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "give one of"),
        ({"texts": []}, 400, "give one of"),
        ({"texts": ["a"], "images": [data_uri(image(1))]}, 400, "give one of"),
        ({"texts": ["a"], "truncate": "START"}, 400, "END"),
        ({"texts": ["a"], "embedding_types": ["float16"]}, 422, "embedding_types[0]"),
        ({"texts": ["a"], "embedding_types": ["float"] * 17}, 422, "embedding_types"),
        ({"texts": ["a"], "output_dimension": 25}, 400, "24 dimensions"),
        ({"texts": ["a"] * 21}, 400, "21 inputs"),
        ({"texts": ["a", data_uri(image(1))]}, 400, "texts[1]"),
        ({"images": [data_uri(image(1)), "AAAA"]}, 400, "images[1]"),
        ({"images": ["https://example.com/a.png"]}, 400, "fetches no URLs"),
        ({"inputs": [{"content": [IMAGE]}, {"content": [TEXT, TEXT]}]}, 400, "inputs[1]"),
        ({"inputs": [{"content": [IMAGE, TEXT]}]}, 400, "2 images and texts"),
        ({"inputs": [{"content": []}]}, 422, "inputs[0].content"),
        ({"inputs": [{"content": [{"type": "text"}]}]}, 400, "0 images and texts"),
        ({"inputs": [{"content": [{"type": "audio"}]}]}, 422, "inputs[0].content[0].type"),
    ],
)
def test_errors_say_what_is_to_blame(server, body, status, said):
    reply = server.client.post("/v2/embed", json=body)
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["message"]
    assert said in reply.json()["message"]


def test_a_blank_text_beside_an_image_is_ignored(server):
    content = [{"type": "text", "text": " "}, IMAGE]
    reply = server.client.post("/v2/embed", json={"inputs": [{"content": content}]})
    expected = server.model.embed_images([image(1)])
    assert np.allclose(reply.json()["embeddings"]["float"], expected, atol=CLOSE)
