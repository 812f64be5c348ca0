"""Indexes of another preprocessing than the server's model has."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from server.serving import Running, make_index, running
from small_models import open_tiny

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index
from perception_encoder.server import ServerSettings
from perception_encoder.types import PreprocessName


def drawing(seed: int, width: int, height: int) -> bytes:
    """A drawing with transparent parts, which "reference" sees and "standard" shows on white."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 4), np.uint8)
    pixels[: height // 2, :, 3] = 0
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(params=["reference", "fast"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Running, Index]]:
    files = []
    for seed, size in enumerate([(64, 48), (321, 97), (900, 700), (31, 200)]):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(drawing(seed, *size))
    path, model = tmp_path / "t.lance", open_tiny()
    preprocess: PreprocessName = request.param
    index = make_index(path, model.prepared_by(preprocess), files)
    settings = ServerSettings(indexes=(str(path),), cache_folder=tmp_path / "thumbnails")
    with running(settings, model=model) as server:
        yield server, index


def search(server: Running, **term: str) -> dict[str, float]:
    reply = server.client.post("/v1/search", json={"terms": [term], "k": 4})
    assert reply.status_code == 200, reply.text
    return {hit["name"]: hit["score"] for hit in reply.json()["hits"]}


def test_texts_and_images_search_it(served: tuple[Running, Index]) -> None:
    server, index = served
    (hits,) = index.search(server.model.embed_text("a cat"), k=4)
    found = search(server, text="a cat")
    assert list(found.values()) == pytest.approx([hit.score for hit in hits], abs=1e-3)
    for row in index.rows():
        uri = "data:image/png;base64," + base64.b64encode(Path(row.uri).read_bytes()).decode()
        scores = search(server, image=uri)
        (own,) = [score for name, score in scores.items() if name.endswith(Path(row.uri).name)]
        assert own == pytest.approx(1, abs=1e-3)


def test_a_classifier_is_taught_and_used_with_it(served: tuple[Running, Index]) -> None:
    server, index = served
    keys = [row.id for row in index.rows()]
    asked = {"examples": {"a": keys[:2], "b": keys[2:]}}
    reply = server.client.post("/v1/teach", json=asked)
    assert reply.status_code == 200, reply.text


def test_a_model_shares_its_backend_with_what_is_prepared_otherwise(tiny: EmbeddingModel) -> None:
    other = tiny.prepared_by("reference")
    assert (other.identity.preprocess, tiny.identity.preprocess) == ("reference", "standard")
    assert other.backend is tiny.backend
    assert tiny.prepared_by("standard") is tiny
    image = drawing(0, 40, 40)
    assert float((other.embed_image(image) @ tiny.embed_image(image).T).item()) < 0.9999


@pytest.fixture
def tiny() -> Iterator[EmbeddingModel]:
    with open_tiny() as model:
        yield model
