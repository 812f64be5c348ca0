"""A tiny model, an empty folder and an empty index of that model."""

from pathlib import Path

import pytest
from small_models import open_tiny

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return open_tiny()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def index(tmp_path: Path, model: EmbeddingModel) -> Index:
    return Index.create(tmp_path / "t.lance", model.identity)
