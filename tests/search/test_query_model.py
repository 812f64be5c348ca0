"""Opening an index's model for queries: without a backend where its file is known and unchanged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import CLIP, CORE, drawing, open_tiny

from perception_encoder.backends import ComputeOptions
from perception_encoder.errors import IndexMismatchError
from perception_encoder.index import Index
from perception_encoder.search.query_model import open_index_model

_LOADED = """
import sys
from perception_encoder.index import Index
from perception_encoder.search.query_model import open_index_model
model = open_index_model(Index.open(sys.argv[1]), sys.argv[2])
model.embed_text("cat")
print("torch" in sys.modules)
"""


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return Path(open_tiny().save_pretrained(tmp_path / "model"))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "t.lance", open_tiny().identity)


def loads_torch(index: Index, name: Path) -> bool:
    command = [sys.executable, "-c", _LOADED, index.path, str(name)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip() == "True"


def test_the_second_query_needs_no_backend_until_the_weights_change(
    index: Index, model_folder: Path
) -> None:
    assert open_index_model(index, str(model_folder)).backend.name != "numpy"
    assert not loads_torch(index, model_folder)
    os.utime(model_folder / "model.safetensors")
    assert open_index_model(index, str(model_folder)).backend.name != "numpy"
    assert not loads_torch(index, model_folder)


def test_a_note_that_is_damaged_or_cannot_be_written_only_costs_time(
    index: Index, model_folder: Path, tmp_path: Path
) -> None:
    options = ComputeOptions(graph_cache=tmp_path / "cache")
    assert open_index_model(index, str(model_folder), options).backend.name != "numpy"
    (note,) = (tmp_path / "cache" / "weights").glob("*.json")
    note.write_text("{half")
    assert open_index_model(index, str(model_folder), options).backend.name != "numpy"
    assert open_index_model(index, str(model_folder), options).backend.name == "numpy"
    note.unlink()
    note.mkdir()
    (note / "in the way").touch()
    assert open_index_model(index, str(model_folder), options).backend.name != "numpy"


def test_images_and_texts_have_the_vectors_of_the_whole_model(
    index: Index, model_folder: Path
) -> None:
    whole = open_index_model(index, str(model_folder))
    quick = open_index_model(index, str(model_folder))
    assert whole.backend.name != "numpy"
    assert quick.backend.name == "numpy"
    assert whole.identity == quick.identity == open_tiny(CORE).identity
    for embedded in (lambda m: m.embed_text("a cat"), lambda m: m.embed_image(drawing(1))):
        assert whole.similarity(embedded(whole), embedded(quick))[0, 0] > 0.9999


def test_another_models_weights_are_refused(
    index: Index, model_folder: Path, tmp_path: Path
) -> None:
    open_index_model(index, str(model_folder))
    other = Path(open_tiny(CLIP).save_pretrained(tmp_path / "other"))
    with pytest.raises(IndexMismatchError, match="tiny/clip"):
        open_index_model(index, str(other))
    # By its name, before anything is fetched: tests reach no network.
    with pytest.raises(IndexMismatchError, match=r"tiny/core.*PE-Core-G14-448"):
        open_index_model(index, "facebook/PE-Core-G14-448")
    shutil.rmtree(model_folder)
    shutil.copytree(other, model_folder)  # at the place that was noted
    with pytest.raises(IndexMismatchError, match="tiny/clip"):
        open_index_model(index, str(model_folder))
