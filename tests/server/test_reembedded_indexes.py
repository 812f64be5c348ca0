"""The model of an index is changed while a server serves it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server.serving import Running, image, make_index, running
from small_models import CLIP, open_tiny

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index
from perception_encoder.indexing import Reembedding
from perception_encoder.server import ServerSettings
from perception_encoder.server.core import indexes


@pytest.fixture(autouse=True)
def _always_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "_FRESH_SECONDS", -1.0)


@pytest.fixture
def other() -> EmbeddingModel:
    """The new model, which the server closes in the end."""
    return open_tiny(CLIP)


@pytest.fixture
def served(tmp_path: Path, other: EmbeddingModel) -> Iterator[tuple[Running, Path]]:
    """A server of one index, and the index's path."""
    files = []
    for seed in range(6):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(image(seed))
    path, model = tmp_path / "t.lance", open_tiny()
    make_index(path, model, files)
    settings = ServerSettings(indexes=(str(path),), cache_folder=tmp_path / "thumbnails")
    models = {"tiny/clip": other}
    with running(settings, model=model, open_model=lambda name: models.get(name, model)) as server:
        yield server, path


def search(server: Running) -> dict[str, float]:
    """The scores of a text, by the id of the image."""
    reply = server.client.post("/v1/search", json={"terms": [{"text": "cat"}], "k": 6})
    assert reply.status_code == 200, reply.text
    return {hit["id"]: hit["score"] for hit in reply.json()["hits"]}


def describe(server: Running) -> dict[str, Any]:
    (found,) = server.client.get("/v1/indexes").json()["data"]
    assert isinstance(found, dict)
    return found


def scores_of(path: Path, model: EmbeddingModel) -> dict[str, float]:
    (hits,) = Index.open(path).search(model.embed_text("cat"), k=6)
    return {hit.id: hit.score for hit in hits}


def test_a_server_serves_the_old_embeddings_until_the_new_ones_are_there(
    served: tuple[Running, Path], other: EmbeddingModel
) -> None:
    server, path = served
    before = search(server)
    assert before == pytest.approx(scores_of(path, server.model), abs=1e-3)
    for _ in Reembedding(Index.open(path), other).outcomes():
        assert search(server) == before
    # The request that meets the change ends as it began; the next ones see the new model.
    assert search(server) == before
    after = scores_of(path, other)
    assert after != pytest.approx(before, abs=1e-3)
    assert search(server) == pytest.approx(after, abs=1e-3)
    found = describe(server)
    assert (found["model"], found["dimensions"]) == ("tiny/clip", CLIP.embed_dim)
    assert (found["rows"], found["error"]) == (6, None)
    models = {one["id"] for one in server.client.get("/v1/models").json()["data"]}
    assert "tiny/clip" in models


def test_a_model_that_the_server_cannot_open_is_named_and_the_rest_goes_on(
    served: tuple[Running, Path], other: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, path = served
    for _ in Reembedding(Index.open(path), other).outcomes():
        pass
    models = server.services.served_models

    def refuse(name: str) -> EmbeddingModel:
        raise FileNotFoundError(f"{name} is not here")

    monkeypatch.setattr(models, "_open_model", refuse)
    assert describe(server)["rows"] == 6
    reply = server.client.post("/v1/search", json={"terms": [{"text": "cat"}]})
    assert reply.status_code == 503
    assert "tiny/clip cannot be opened" in reply.json()["error"]["message"]
    key = server.client.get("/v1/items").json()["items"][0]["id"]
    found = server.client.post("/v1/search", json={"terms": [{"item": key}]})
    assert found.status_code == 200
    assert server.client.get(f"/v1/items/{key}/image").status_code == 200
