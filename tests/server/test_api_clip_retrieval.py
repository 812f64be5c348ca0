"""/knn-service, /metadata and /indices-list: clip-retrieval's own client over an index."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from server.other_clients import clients_folder, run_client
from server.serving import image, in_base64, make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings
from perception_encoder.vectors import normalize_rows

KEY = "a-key-of-some-length"
NUM_FILES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def files(folder):
    return save_drawings(folder, NUM_FILES)


@pytest.fixture(scope="module")
def index(folder, files):
    return make_index(folder / "drawings.lance", open_tiny(), files)


@pytest.fixture(scope="module")
def server(folder, index):
    settings = ServerSettings(
        indexes=(str(index.path),),
        cache_folder=folder / "thumbnails",
        access=AccessSettings(key_hashes=(hash_key(KEY),)),
    )
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        running_server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running_server


@pytest.fixture(scope="module")
def client(server, files):
    """What `ClipClient` got."""
    module = clients_folder() / "clip-retrieval" / "clip_retrieval" / "clip_client.py"
    return run_client("clip_client.py", str(module), server.url, KEY, str(files[3]))


def ids(hits):
    return [hit["id"] for hit in hits]


def test_the_client_searches_by_words_image_or_vector(client, index, files):
    model = open_tiny()
    expected = index.search(model.embed_text("a cat"), k=5)[0]
    assert ids(client["text"])[0] == expected[0].id
    assert client["text"][0]["similarity"] == pytest.approx(expected[0].score, abs=1e-4)
    assert client["image"][0]["image_path"] == str(files[3])
    assert client["image"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    vector = normalize_rows(np.array([client["given"]], np.float32))
    assert ids(client["vector"])[0] == index.search(vector, k=1)[0][0].id


def test_the_client_gets_columns_and_the_image(client, files):
    best = client["image"][0]
    assert best["number"] == 3
    assert best["color"] == "blue"
    with (
        Image.open(io.BytesIO(base64.b64decode(best["image"]))) as sent,
        Image.open(files[3]) as own,
    ):
        assert sent.size == own.size
        assert (best["width"], best["height"]) == own.size


def test_deduplication_is_as_asked_for(client):
    assert len(client["every"]) == NUM_FILES
    scores = [hit["similarity"] for hit in client["every"]]
    assert scores == sorted(scores, reverse=True)
    assert len(client["text"]) <= 5


def test_the_client_is_told_what_is_wrong(client):
    for call, words in {
        "url": "fetches no URLs",
        "texts": "vectors of images only",
        "unknown": "no index 'no-such-index'",
        "stranger": "needs a key",
    }.items():
        assert words in client[call]["message"], call


def test_hits_beyond_num_images_have_no_columns(server):
    body = {"text": "a cat", "num_images": 2, "num_result_ids": 5, "deduplicate": False}
    hits = server.client.post("/knn-service", json=body).json()
    assert [set(hit) == {"id", "similarity"} for hit in hits] == [False, False, True, True, True]


def test_a_vector_of_any_length_is_a_direction(server):
    numbers = np.random.default_rng(1).normal(size=24)
    replies = [
        server.client.post(
            "/knn-service", json={"embedding_input": (numbers * scale).tolist()}
        ).json()
        for scale in (1.0, 1e-30, 1e300)
    ]
    assert ids(replies[0]) == ids(replies[1]) == ids(replies[2])


def test_metadata_of_items(server):
    assert server.client.get("/indices-list").json() == ["drawings"]
    hits = server.client.post("/knn-service", json={"text": "a cat", "num_images": 3}).json()
    body = {"ids": ids(hits), "indice_name": "drawings"}
    reply = server.client.post("/metadata", json=body).json()
    assert ids(reply) == ids(hits)
    assert all(
        one["metadata"]["image_path"] == hit["image_path"]
        for one, hit in zip(reply, hits, strict=True)
    )
    assert server.client.post("/metadata", json={"ids": []}).json() == []
    assert server.client.post("/metadata", json={"ids": ["x"]}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"text": ""}, 400),
        ({"embedding_input": [1.0, 2.0]}, 400),
        ({"embedding_input": [0.0] * 24}, 400),
        ({"image": "***"}, 400),
        ({"image": in_base64(image(1))[:40]}, 400),
        ({"text": "a", "use_mclip": True}, 400),
        ({"text": "a", "num_images": 0}, 422),
        ({"text": 3}, 422),
    ],
)
def test_odd_queries_are_refused(server, body, status):
    reply = server.client.post("/knn-service", json=body)
    assert reply.status_code == status
    assert set(reply.json()) == {"message"}
