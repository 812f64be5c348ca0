"""POST /embed as text-embeddings-inference answers it: huggingface_hub's client, and plain HTTP."""

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from server.serving import data_uri, image, running

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings, ModelSettings
from perception_encoder.vectors import normalize_rows

KEY = "a-key-of-some-length"
CLOSE = 2e-5  # the same in any batch, within fp32's rounding


@pytest.fixture(scope="module")
def server():
    access = AccessSettings(key_hashes=(hash_key(KEY),), max_items=20)
    with running(ServerSettings(access=access)) as running_server:
        running_server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running_server


@pytest.mark.parametrize("path", ["", "/embed"])
def test_the_hubs_client_embeds_texts(server, path):
    client = InferenceClient(base_url=server.url + path, token=KEY)
    for texts in ("a cat", ["a cat", "", "a very long text " * 20]):
        got = client.feature_extraction(texts, normalize=True, truncate=True)
        assert got.dtype == np.float32
        assert np.allclose(got, server.model.embed_text(texts), atol=CLOSE)


def test_the_hubs_client_embeds_images_and_asks_for_fewer_dimensions(server):
    files = [image(1), image(2, 25, 50)]
    client = InferenceClient(base_url=server.url, token=KEY)
    got = client.feature_extraction([data_uri(file) for file in files], dimensions=7)
    assert np.allclose(
        got, normalize_rows(server.model.embed_images(files)[:, :7]), atol=10 * CLOSE
    )


def test_the_hubs_client_is_told_what_is_wrong(server):
    client = InferenceClient(base_url=server.url, token=KEY)
    with pytest.raises(HfHubHTTPError, match="413"):
        client.feature_extraction("a very long text " * 20, truncate=False)
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(base_url=server.url, token="wrong").feature_extraction("a cat")


def test_the_hubs_client_compares_texts_and_images(server):
    others = ["a dog", "", data_uri(image(1))]
    client = InferenceClient(base_url=server.url + "/similarity", token=KEY)
    got = client.sentence_similarity("a cat", other_sentences=others)
    model = server.model
    vectors = np.concatenate([model.embed_text(others[:2]), model.embed_images([image(1)])])
    assert np.allclose(got, vectors @ model.embed_text("a cat")[0], atol=CLOSE)


@pytest.mark.parametrize(
    ("inputs", "parameters", "status", "kind"),
    [
        ({"source_sentence": "a", "sentences": []}, {}, 400, "empty"),
        ({"source_sentence": "a"}, {}, 422, "validation"),
        ({"source_sentence": "a", "sentences": ["a"] * 21}, {}, 413, "validation"),
        (
            {"source_sentence": "a", "sentences": ["a", "a very long text " * 20]},
            {"truncate": False}, 413, "validation",
        ),
        ({"source_sentence": "a", "sentences": ["b"]}, {"prompt_name": "q"}, 422, "validation"),
        ({"source_sentence": data_uri(b""), "sentences": ["b"]}, {}, 400, "validation"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said(server, inputs, parameters, status, kind):
    body = {"inputs": inputs, "parameters": parameters}
    reply = server.client.post("/similarity", json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (status, kind)


def test_openais_form_is_answered_without_v1_too(server):
    body = {"input": ["a cat"], "model": "pe-nano"}
    reply = server.client.post("/embeddings", json=body)
    assert reply.json() == server.client.post("/v1/embeddings", json=body).json()
    assert server.client.post("/embeddings", json={}).json()["error"]["param"] == "input"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": "a very long text " * 20, "truncate": False}, 413, "validation"),
        ({"inputs": ["a"] * 21}, 413, "validation"),
        ({"inputs": []}, 400, "empty"),
        ({"inputs": [1, 2]}, 422, "validation"),
        ({}, 422, "validation"),
        ({"inputs": "a", "prompt_name": "query"}, 422, "validation"),
        ({"inputs": "a", "truncation_direction": "Left"}, 422, "validation"),
        ({"inputs": "a", "dimensions": 25}, 400, "validation"),
        ({"inputs": [data_uri(b"no image")]}, 400, "validation"),
    ],
)
def test_errors_have_the_form_of_the_original(server, body, status, kind):
    reply = server.client.post("/embed", json=body)
    assert reply.status_code == status
    assert set(reply.json()) == {"error", "error_type"}
    assert reply.json()["error_type"] == kind


def test_a_text_that_just_fits_is_no_error(server):
    text = "c" * (server.model.tokenizer.context_length - 2)
    assert server.client.post("/embed", json={"inputs": text, "truncate": False}).is_success
    reply = server.client.post("/embed", json={"inputs": text + "c", "truncate": False})
    assert f"Given: {server.model.tokenizer.context_length + 1}" in reply.json()["error"]


def test_info_says_what_clients_plan_with():
    with running(ServerSettings(models=ModelSettings(preload=False))) as server:
        info = server.client.get("/info").json()
        assert info["model_id"] == "pe-nano"
        assert info["max_input_length"] == 32  # of the registered model
        assert info["model_sha"] is None
        server.client.post("/embed", json={"inputs": "a"})
        info = server.client.get("/info").json()
        assert info["model_sha"] == server.model.identity.fingerprint
        assert info["max_input_length"] == server.model.tokenizer.context_length
        assert {"auto_truncate", "max_client_batch_size", "version", "model_dtype"} <= set(info)
        assert server.client.get("/health").status_code == 200
