"""What a worker does, in this process: it needs no cluster."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from small_models import drawing, save_drawings

from perception_encoder.backends import ComputeOptions
from perception_encoder.distributed.worker import Worker
from perception_encoder.index import Outcome
from perception_encoder.indexing.prepare import ListedItem, PreparedImage
from perception_encoder.sources import Item, SourceOptions, open_sources


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker("pe-nano", ComputeOptions(device="cpu"), None, 2)


def listed(folder: Path) -> list[Item]:
    """The items of a folder as they come to another machine."""
    (source,) = open_sources([str(folder)], SourceOptions())
    items: list[Item] = pickle.loads(pickle.dumps(list(source.items())))
    return items


def test_contents_that_have_a_vector_are_not_embedded(worker: Worker, tmp_path: Path) -> None:
    save_drawings(tmp_path, 3)
    drawing(0, 30, 25).save(tmp_path / "same.png")
    items = listed(tmp_path)
    hashes, contents = worker.read(items)
    assert hashes[0] == hashes[3]
    chunk = [ListedItem(item, is_new=True) for item in items]

    found = worker.embed(chunk, contents, {str(hashes[1]): "donor"})

    prepared = [one for one in found if isinstance(one, PreparedImage)]
    assert [one.duplicate_of for one in prepared] == [None, "donor", None, None]
    vectors = [one.vector for one in prepared]
    assert vectors[1] is None
    assert vectors[0] is not None
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    assert all(one.resized is None for one in prepared if one.duplicate_of is None)
    assert [one.row.width for one in prepared] == [30, None, 44, 30]


def test_a_file_that_only_the_lister_sees_fails_and_says_where(
    worker: Worker, tmp_path: Path
) -> None:
    save_drawings(tmp_path, 2)
    (tmp_path / "away.png").symlink_to(tmp_path / "nowhere.png")
    items = listed(tmp_path)
    (tmp_path / "drawing1.png").unlink()
    _, contents = worker.read(items)

    away, kept, gone = worker.embed([ListedItem(item, is_new=True) for item in items], contents, {})

    assert isinstance(kept, PreparedImage)
    assert isinstance(gone, Outcome)
    assert gone.reason == "ImageNotFoundError"
    assert "where it must have the same path as on the machine that listed it" in gone.message
    assert isinstance(away, Outcome)
    assert "must be there" not in away.message  # whoever listed it has not seen it either
