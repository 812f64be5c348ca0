"""An image that is written as a string is an image or a 400 in every API, and never a text."""

import base64

import numpy as np
import pytest
from server.serving import data_uri, image, in_base64, make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.server import ServerSettings

FILE = image(1)
CLOSE = 2e-5
URIS = [
    f"data:;base64,{in_base64(FILE)}",
    f"data:application/octet-stream;base64,{in_base64(FILE)}",
    f" \n{data_uri(FILE)}",
    data_uri(FILE).replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64"),
    f"data:nonsense;base64,{in_base64(FILE)}",
    f"data:image/png;charset=utf-8;base64,{base64.urlsafe_b64encode(FILE).decode().rstrip('=')}",
    f"data:,{''.join(f'%{byte:02X}' for byte in FILE)}",
]
NO_IMAGES = ["data:,hello", "data:image/png;base64,AAAA", "data:text/plain;base64,aGVsbG8="]
TEXTS = ["data: a graph", "data:yes,no", "iVBORw0KGgo"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("as-text")
    make_index(folder / "a.lance", open_tiny(), save_drawings(folder, 3))
    with running(ServerSettings(indexes=(str(folder / "a.lance"),))) as running_server:
        yield running_server


def answer(server, path, body):
    reply = server.client.post(path, json=body)
    return reply.status_code, reply.json()


@pytest.mark.parametrize("uri", URIS)
def test_strings_that_may_be_either_are_embedded_as_images(server, uri):
    expected = server.model.embed_images([FILE])
    for body in ({"input": [uri]}, {"input": uri}, {"messages": [{"content": uri}]}):
        status, reply = answer(server, "/v1/embeddings", body)
        assert status == 200, reply
        assert np.allclose(reply["data"][0]["embedding"], expected, atol=CLOSE)
    status, reply = answer(server, "/embed", {"inputs": ["a cat", uri]})
    assert status == 200, reply
    assert np.allclose(reply[1], expected, atol=CLOSE)


EITHER = [
    ("/v1/embeddings", lambda text: {"input": [text]}),
    ("/embed", lambda text: {"inputs": [text]}),
    ("/", lambda text: {"inputs": text}),
]
TEXT_ONLY = [
    ("/v1/embeddings", lambda text: {"input": {"text": text}}),
    ("/v1/embeddings", lambda text: {"messages": [{"content": [{"type": "text", "text": text}]}]}),
    ("/v1/embed", lambda text: {"texts": ["a", text]}),
    ("/v1/similarity", lambda text: {"a": [{"text": text}], "b": [{"text": "a"}]}),
    ("/v1/similarity", lambda text: {"a": [{"text": "a"}], "b": [{"text": text}]}),
    ("/v1/classify", lambda text: {"images": [data_uri(FILE)], "labels": ["a", text]}),
    ("/v1/search", lambda text: {"terms": [{"text": "a"}, {"text": text}]}),
    ("/knn-service", lambda text: {"text": text}),
    ("/perception_encoder/embed_text", lambda text: {"text": ["a", text]}),
    ("/perception_encoder/embed_text", lambda text: {"text": text}),
    (
        "/perception_encoder/compare",
        lambda text: {"subject": "a", "subject_type": "text", "prompt": {"x": text}},
    ),
    (
        "/perception_encoder/compare",
        lambda text: {"subject": text, "subject_type": "text", "prompt": "a"},
    ),
]


@pytest.mark.parametrize(("path", "body"), EITHER + TEXT_ONLY)
def test_data_uris_without_an_image_and_plain_base64_are_refused(server, path, body):
    for text in (*NO_IMAGES, in_base64(FILE)):
        status, reply = answer(server, path, body(text))
        assert status == 400, (text, reply)


@pytest.mark.parametrize(("path", "body"), TEXT_ONLY)
def test_fields_of_texts_take_no_images(server, path, body):
    for uri in URIS:
        status, reply = answer(server, path, body(uri))
        assert status == 400, reply
        assert "send it as an image" in str(reply)


@pytest.mark.parametrize(("path", "body"), EITHER + TEXT_ONLY)
def test_texts_about_data_stay_texts(server, path, body):
    for text in TEXTS:
        status, reply = answer(server, path, body(text))
        assert status == 200, (text, reply)


def test_what_stays_a_text_is_embedded_as_one(server):
    status, reply = answer(server, "/v1/embeddings", {"input": TEXTS})
    assert status == 200
    got = [one["embedding"] for one in reply["data"]]
    assert np.allclose(got, server.model.embed_text(TEXTS), atol=CLOSE)
