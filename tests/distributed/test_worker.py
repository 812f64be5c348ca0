"""What a worker does, in this process: it needs no cluster."""

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from small_models import drawing, save_drawings
from video_clips import SCENES, write_clip

from perception_encoder import AutoModel
from perception_encoder.backends import ComputeOptions
from perception_encoder.distributed.cluster import Workers
from perception_encoder.distributed.run import RemoteVideoReader
from perception_encoder.distributed.worker import Worker
from perception_encoder.errors import ImageNotFoundError
from perception_encoder.index import Index, Outcome
from perception_encoder.indexing import Run
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


def test_videos_of_a_run_are_read_by_workers(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the network in between; `test_cluster` has it."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda answer: pickle.loads(pickle.dumps(answer)))

    class Handle:
        def __getattr__(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(remote=getattr(worker, name))

    def ask(call: Callable[[Handle], object], *, tries: int) -> object:
        assert tries > 1
        return call(Handle())

    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.mp4", SCENES[:2])
    write_clip(tmp_path / "in" / "b.mkv", SCENES[2:4], 1.5)
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video" * 100)
    model = AutoModel.from_pretrained("pe-nano", device="cpu")
    sources = open_sources([str(tmp_path / "in")], SourceOptions(videos=True))
    found = []
    for name in ("alone", "shared"):
        index = Index.create(tmp_path / f"{name}.lance", model.identity)
        workers = cast("Workers", SimpleNamespace(num_slots=2, ask=ask))
        open_videos = (lambda w=workers: RemoteVideoReader(w, 8)) if name == "shared" else None
        run = Run(model, index, sources, open_videos=open_videos)
        counts = Counter(one.status for one in run.outcomes())
        assert counts == {"embedded": 2, "failed": 1}
        rows = list(index.rows())
        found.append({row.id: (row, v) for row, v in zip(rows, index.vectors(), strict=True)})
    alone, shared = found
    assert {key: row for key, (row, _) in alone.items()} == {
        key: row for key, (row, _) in shared.items()
    }
    for key, (_, vector) in alone.items():
        np.testing.assert_allclose(shared[key][1], vector, atol=1e-3)


def test_a_video_that_a_worker_does_not_find_is_told_with_its_machine(
    worker: Worker, tmp_path: Path
) -> None:
    with pytest.raises(ImageNotFoundError, match=r"it was read on .*, where it must have the same"):
        worker.hash_video(str(tmp_path / "gone.mp4"))
