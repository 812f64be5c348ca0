"""Ollama's API with its own clients, and what they cannot send."""

import numpy as np
import pytest
from server.other_clients import run_client
from server.serving import data_uri, image, running

from perception_encoder._version import __version__
from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings, ModelSettings
from perception_encoder.vectors import normalize_rows

KEY = "a-key-of-some-length"
CLOSE = 2e-5


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(
        models=ModelSettings(aliases=(("nomic-embed-text", "pe-nano"),)),
        access=AccessSettings(key_hashes=(hash_key(KEY),), max_items=20),
    )
    with running(settings) as running_server:
        running_server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running_server


@pytest.fixture(scope="module")
def replies(server):
    """What the client of the package `ollama` returned for each call."""
    return run_client("ollama_client.py", server.url, KEY, data_uri(image(1)))


def test_the_client_embeds_texts_and_images(server, replies):
    text = server.model.embed_text("a cat")
    assert np.allclose(replies["text"]["embeddings"], text, atol=CLOSE)
    assert replies["text"]["model"] == "pe-nano"
    assert replies["text"]["prompt_eval_count"] > 0
    assert replies["text"]["total_duration"] >= replies["text"]["load_duration"] >= 0
    expected = np.concatenate([text, server.model.embed_images([image(1)])])[:, :8]
    assert np.allclose(replies["list"]["embeddings"], normalize_rows(expected), atol=10 * CLOSE)
    assert replies["nothing"]["embeddings"] == []
    assert np.allclose(replies["later"], text, atol=CLOSE)
    assert np.allclose(replies["older"], text[0], atol=CLOSE)


def test_the_client_lists_the_models_and_their_aliases(server, replies):
    names = [one["model"] for one in replies["models"]["models"]]
    assert names == ["pe-nano:latest", "nomic-embed-text:latest"]
    digests = {one["digest"] for one in replies["models"]["models"]}
    assert digests == {server.model.identity.fingerprint}


def test_the_client_is_told_what_is_wrong(replies):
    assert replies["too long"]["status"] == 400
    assert "input[1]: the input length exceeds the context length" in replies["too long"]["error"]
    assert replies["unknown model"]["status"] == 404
    assert "llama3" in replies["unknown model"]["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/embed", {"input": ["a"] * 21}, 400, "21 inputs"),
        ("/api/embed", {"input": [1]}, 422, "input"),
        ("/api/embed", {"input": "a", "dimensions": 25}, 400, "24 dimensions"),
        ("/api/embed", {"input": ["a", data_uri(b"none")]}, 400, "input[1]"),
        ("/api/embeddings", {"prompt": ["a"]}, 422, "prompt"),
        ("/api/embeddings", {"prompt": data_uri(b"none")}, 400, "prompt"),
    ],
)
def test_errors_have_the_form_of_the_original(server, path, body, status, said):
    reply = server.client.post(path, json=body)
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    assert said in reply.json()["error"]


def test_the_version_needs_no_key(server):
    reply = server.client.get("/api/version", headers={"Authorization": ""})
    assert reply.json() == {"version": __version__}
    assert server.client.get("/api/tags", headers={"Authorization": ""}).status_code == 401
