"""POST /v1/search with `rerank`: another of the server's models orders the hits."""

import base64
from pathlib import Path

import numpy as np
import pytest
from server.serving import in_base64, make_index, running
from small_models import CORE, WITHOUT_TEXT, open_tiny, save_drawings

from perception_encoder.client import Client, ClientOptions, SearchRequest
from perception_encoder.index import Index
from perception_encoder.server import ServerSettings
from perception_encoder.server.options import ModelSettings

NUM_FILES = 12
MODELS = {"tiny/core": CORE, "tiny/images": WITHOUT_TEXT}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return save_drawings(tmp_path_factory.mktemp("served"), NUM_FILES)


@pytest.fixture(scope="module")
def server(files):
    make_index(files[0].parent / "drawings.lance", open_tiny(), files)
    settings = ServerSettings(
        models=ModelSettings(names=tuple(MODELS)),
        indexes=(str(files[0].parent / "drawings.lance"),),
    )
    with running(settings, open_model=lambda name: open_tiny(MODELS[name])) as running_server:
        yield running_server


def searched(server, status=200, **body):
    reply = server.client.post("/v1/search", json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_the_second_model_orders_the_hits(server, files):
    query = [{"image": in_base64(files[3].read_bytes())}]
    plain = searched(server, terms=query, k=NUM_FILES)
    assert plain["reranked"] is None
    body = {"terms": query, "k": 3, "rerank": "tiny/images", "candidates": 8}
    reply = searched(server, **body)
    first = {hit["id"]: hit["score"] for hit in plain["hits"][:8]}
    model = open_tiny(WITHOUT_TEXT)
    for hit in reply["hits"]:
        cosine = model.similarity(model.embed_image(files[3]), model.embed_image(Path(hit["uri"])))[
            0, 0
        ]
        assert hit["score"] == pytest.approx(float(cosine), abs=1e-3)
        assert hit["cosine"] == pytest.approx(first[hit["id"]], abs=1e-5)
        assert hit["label"] is None
    scores = [hit["score"] for hit in reply["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert reply["query"]["score"] == "rerank"
    assert reply["query"]["cutoffs"] is None
    assert {**reply["reranked"], "cached": 0} == {
        "model": "tiny/images", "candidates": 8, "cached": 0, "embedded": 8, "failed": 0,
        "failures": [],
    }  # fmt: skip
    found = [hit["id"] for hit in reply["hits"]]
    while reply["next_offset"] is not None:
        reply = searched(server, **body, offset=reply["next_offset"])
        assert reply["reranked"]["cached"] == 8
        found += [hit["id"] for hit in reply["hits"]]
    assert set(found) == set(first)
    assert len(found) == 8


def test_items_parts_and_marks(server, files):
    index = Index.open(str(files[0].parent / "drawings.lance"))
    ids = {row.uri: row.id for row in index.rows()}
    item = ids[str(files[5])]
    more = {"rerank": "tiny/images", "include_own": True, "k": 1}
    (hit,) = searched(server, terms=[{"item": item}], **more)["hits"]
    assert (hit["id"], hit["score"]) == (item, pytest.approx(1, abs=1e-3))
    part = {"image": in_base64(files[5].read_bytes()), "crop": "percent:0,0,100,100"}
    (hit,) = searched(server, terms=[part], **more)["hits"]
    assert hit["id"] == item
    marked = searched(server, like=[{"item": item}], rerank="tiny/images", k=NUM_FILES)
    assert item not in {hit["id"] for hit in marked["hits"]}
    assert len(marked["hits"]) == NUM_FILES - 1


def test_the_client_asks_for_it(server, files):
    with Client(server.url, ClientOptions(num_retries=0)) as client:
        hits = client.search_for(
            SearchRequest(query=files[2], k=4, rerank="tiny/images", candidates=4)
        )
    assert hits[0]["uri"] == str(files[2])
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)


def test_images_that_have_gone_come_last(tmp_path):
    files = save_drawings(tmp_path, 4)
    make_index(tmp_path / "d.lance", open_tiny(), files)
    settings = ServerSettings(
        models=ModelSettings(names=tuple(MODELS)), indexes=(str(tmp_path / "d.lance"),)
    )
    with running(settings, open_model=lambda name: open_tiny(MODELS[name])) as server:
        files[1].unlink()
        query = [{"image": in_base64(files[0].read_bytes())}]
        reply = searched(server, terms=query, k=4, rerank="tiny/images")
    assert reply["hits"][-1]["uri"] == str(files[1])
    assert reply["hits"][-1]["score"] is None
    assert reply["hits"][-1]["cosine"] is not None
    assert (reply["reranked"]["embedded"], reply["reranked"]["failed"]) == (3, 1)
    assert files[1].name in reply["reranked"]["failures"][0]


def test_what_cannot_be_reranked_is_refused(server):
    terms = [{"text": "a cat"}]
    error = searched(server, 404, terms=terms, rerank="PE-Core-L14-336", k=1)["error"]
    assert "this server has no model 'PE-Core-L14-336'" in error["message"]
    error = searched(server, 400, terms=terms, rerank="tiny/core", k=1)["error"]
    assert "embedded by tiny/core already" in error["message"]
    error = searched(server, 400, terms=terms, rerank="tiny/images", k=1)["error"]
    assert "text" in error["message"]
    error = searched(server, 422, terms=terms, text="a", rerank="tiny/images", k=1)["error"]
    assert "leave out text" in error["message"]
    searched(server, 422, terms=terms, rerank="tiny/images", candidates=501)
    vector = base64.b64encode(np.ones(CORE.embed_dim, "<f4").tobytes()).decode()
    error = searched(server, 400, terms=[{"vector": vector}], rerank="tiny/images", k=1)["error"]
    assert "another model cannot read" in error["message"]
    item = searched(server, terms=[{"vector": vector}], k=1)["hits"][0]["id"]
    error = searched(server, 400, terms=[{"item": item}], rerank="tiny/images", candidates=9)[
        "error"
    ]
    assert "only 9 candidates are reranked" in error["message"]
