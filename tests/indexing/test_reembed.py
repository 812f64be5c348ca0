"""The model of an index is changed: its rows stay, and their embeddings are the new model's."""

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import fsspec
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_models import CLIP, WITHOUT_TEXT, drawing, open_tiny, save_drawings
from video_clips import SCENES, write_clip

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import (
    ImagesMissingError,
    IndexBusyError,
    IndexMismatchError,
    IndexStorageError,
)
from perception_encoder.index import Index, Row, model_change, write_lock
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.model_change import NewVectors, find_staged, staging_path
from perception_encoder.index.tiles import TileGrid
from perception_encoder.indexing import Reembedding, ReembedOptions, Run, RunOptions
from perception_encoder.indexing.reembed import _HOPELESS
from perception_encoder.search.saved import SavedSearch, now_iso
from perception_encoder.search.saved_store import SavedSearches
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.video import VideoDecoder

NUM_ROWS = 4 + 1 + 3 + 3 + 3 + 2 + 1  # and the segments of a video


@pytest.fixture(scope="module")
def other() -> EmbeddingModel:
    """A model of another size, preprocessing and number of dimensions."""
    return open_tiny(CLIP)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as files, as a copy, in archives, in a table, named by one, in a bucket; a video."""
    folder = tmp_path_factory.mktemp("source")
    files = save_drawings(folder, 4)
    shutil.copy(files[0], folder / "copy.png")
    with tarfile.open(folder / "shard.tar", "w") as archive:
        _add_images(archive, 10)
    with tarfile.open(folder / "shard.tar.gz", "w:gz") as archive:
        _add_images(archive, 20)
    table = {"image": [_png(seed) for seed in range(30, 33)], "color": ["red", "green", None]}
    pq.write_table(pa.table(table), folder / "table.parquet")
    for seed in (40, 41):
        (folder / "named").mkdir(exist_ok=True)
        drawing(seed).save(folder / "named" / f"{seed}.png")
    lines = ["path,rating", *(f"named/{seed}.png,{seed}" for seed in (40, 41))]
    (folder / "names.csv").write_text("\n".join(lines))
    _fill_bucket(folder.name)
    write_clip(folder / "clip.mp4", SCENES[:3], 1.5)
    return folder


@pytest.fixture(autouse=True)
def _bucket(source: Path) -> None:
    """Fill the bucket again, as tests of other modules empty all of them."""
    _fill_bucket(source.name)


def _fill_bucket(name: str) -> None:
    fsspec.filesystem("memory").pipe(f"/{name}/50.png", _png(50))


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    drawing(seed).save(buffer, "PNG")
    return buffer.getvalue()


def _add_images(archive: tarfile.TarFile, first: int) -> None:
    for seed in range(first, first + 3):
        _add(archive, f"{seed}.png", _png(seed))
        _add(archive, f"{seed}.txt", f"caption of {seed}".encode())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def fill(path: Path, model: EmbeddingModel, source: Path, tiles: TileGrid | None = None) -> None:
    names = ["names.csv", ".", "shard.tar", "shard.tar.gz", "table.parquet"]
    paths = [*(str(source / name) for name in names), f"memory://{source.name}"]
    sources = open_sources(paths, SourceOptions(videos=True))
    index = Index.open_or_create(path, model.identity)
    list(Run(model, index, sources, RunOptions(batch_size=3, tiles=tiles)).outcomes())


@pytest.fixture(scope="module")
def before(source: Path, model: EmbeddingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("before") / "t.lance"
    fill(path, model, source)
    SavedSearches(str(path)).save(SavedSearch("reds", text="red", saved_at=now_iso()))
    return path


@pytest.fixture
def path(before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(before, tmp_path / "t.lance")


def reembed(
    path: Path, model: EmbeddingModel, **options: object
) -> tuple[Counter[str], NewVectors | None]:
    work = Reembedding(Index.open(path), model, ReembedOptions(batch_size=3, **options))
    counts = Counter[str](outcome.status for outcome in work.outcomes())
    return counts, work.result


def contents(path: Path) -> tuple[dict[str, Row], dict[str, NDArray[np.float32]]]:
    index = Index.open(path)
    ids = [key for batch in index.scan(["id"], tiles=True) for key in batch["id"].to_pylist()]
    found = index.by_ids(ids)
    assert len(found) == len(ids)
    return {key: row for key, (row, _) in found.items()}, {
        key: vector for key, (_, vector) in found.items()
    }


def check_vectors(
    found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]
) -> None:
    assert found.keys() == expected.keys()
    for key, vector in found.items():
        np.testing.assert_allclose(vector, expected[key], atol=1e-3)


def test_rows_stay_and_have_the_embeddings_of_an_index_made_anew(
    path: Path, source: Path, other: EmbeddingModel, tmp_path: Path
) -> None:
    old_rows, _ = contents(path)
    version = lance.dataset(str(path)).version
    counts, result = reembed(path, other)
    # The copy reuses an embedding; a video is one item.
    assert counts == {"embedded": NUM_ROWS - 1 + 1, "reused": 1}
    assert result == NewVectors(len(old_rows), 0, 0, 0)
    rows, vectors = contents(path)
    assert rows == old_rows
    fill(tmp_path / "anew.lance", other, source)
    anew_rows, anew = contents(tmp_path / "anew.lance")
    images = {key for key, row in rows.items() if row.moment is None}
    assert {key for key, row in anew_rows.items() if row.moment is None} == images
    check_vectors({key: vectors[key] for key in images}, {key: anew[key] for key in images})
    index = Index.open(path)
    assert index.identity == other.identity
    assert not os.path.exists(staging_path(str(path)))
    assert [one.name for one in SavedSearches(str(path)).load()] == ["reds"]
    found = index.rank_text(TextQuery.parse('"caption of 21"'), limit=5)
    (row,) = index.by_row_ids([one.row_id for one in found])
    assert (row.member, row.metadata["caption"]) == ("21.png", "caption of 21")
    (hits,) = index.search(other.embed_image(source / "drawing2.png"), k=1)
    assert Path(hits[0].uri).name == "drawing2.png"
    old = lance.dataset(str(path), version=version)
    assert old.schema.metadata[b"perception_encoder.model_id"] == b"tiny/core"
    # The next run of `pe index` finds everything as it was.
    sources = open_sources([str(source)], SourceOptions(videos=True))
    again = Run(other, index, sources, RunOptions())
    assert {outcome.status for outcome in again.outcomes()} == {"skipped"}


def test_segments_of_videos_stay_and_are_the_means_of_their_frames(
    path: Path, source: Path, other: EmbeddingModel
) -> None:
    clip = str(source / "clip.mp4")
    before = [row.moment for row, _ in Index.open(path).moments(clip)]
    reembed(path, other)
    found = Index.open(path).moments(clip)
    assert [row.moment for row, _ in found] == before
    assert len(found) >= 1
    frames = list(VideoDecoder().sample(clip))
    for row, vector in found:
        moment = row.moment
        assert moment is not None
        own = [one for one in frames if moment.start - 0.001 <= one.time < moment.end - 0.001]
        own = own or [frames[-1]]
        mean = np.mean(
            [other.embed_image(one.pixels, input_color_format="rgb")[0] for one in own], axis=0
        )
        assert mean @ vector / np.linalg.norm(mean) > 0.995


def test_tiles_stay(
    source: Path, model: EmbeddingModel, other: EmbeddingModel, tmp_path: Path
) -> None:
    fill(tmp_path / "t.lance", model, source, TileGrid(2, 1))
    old_rows, _ = contents(tmp_path / "t.lance")
    _, result = reembed(tmp_path / "t.lance", other)
    assert result == NewVectors(len(old_rows), 0, 0, 0)
    rows, vectors = contents(tmp_path / "t.lance")
    assert rows == old_rows
    tile = next(row for row in rows.values() if row.tile_of and row.uri.endswith("drawing1.png"))
    box = [tile.metadata[name] for name in ("tile_x", "tile_y", "tile_width", "tile_height")]
    x, y, width, height = (int(str(one)) for one in box)
    part = Image.open(tile.uri).crop((x, y, x + width, y + height))
    assert other.embed_image(part)[0] @ vectors[tile.id] > 0.999


def test_images_that_are_gone_end_it_with_the_index_as_it_was(
    before: Path, source: Path, other: EmbeddingModel, tmp_path: Path
) -> None:
    path = shutil.copytree(before, tmp_path / "t.lance")
    moved = source.with_name("moved.png")
    rows = contents(path)
    (source / "drawing3.png").rename(moved)
    try:
        with pytest.raises(ImagesMissingError, match=r"1 of \d+ images .*drawing3.png") as caught:
            reembed(path, other)
        assert "--leave-missing" in str(caught.value)
        assert contents(path)[0] == rows[0]
        assert Index.open(path).identity.model_id == "tiny/core"
        listed = tmp_path / "missing.jsonl"
        left = shutil.copytree(path, tmp_path / "left.lance")
        counts, result = reembed(left, other, leave_missing=listed)
        assert (counts["embedded"], counts["failed"], result and result.num_left) == (0, 1, 1)
        (line,) = listed.read_text("utf-8").splitlines()
        assert json.loads(line)["uri"] == str(source / "drawing3.png")
        assert json.loads(line)["reason"] == "ImageNotFoundError"
        gone = {row.id for row in rows[0].values() if row.uri.endswith("drawing3.png")}
        assert contents(left)[0].keys() == rows[0].keys() - gone
    finally:
        moved.rename(source / "drawing3.png")
    counts, result = reembed(path, other)  # it is back: only this one is embedded
    assert (counts["embedded"], counts["skipped"]) == (1, NUM_ROWS + 1 - 1)
    assert contents(path)[0] == rows[0]


def test_a_video_that_has_changed_is_left_behind_with_all_of_its_segments(
    source: Path, model: EmbeddingModel, other: EmbeddingModel, folder: Path, tmp_path: Path
) -> None:
    drawing(1).save(folder / "1.png")
    clip = shutil.copy(source / "clip.mp4", folder)
    sources = open_sources([str(folder)], SourceOptions(videos=True))
    index = Index.create(tmp_path / "t.lance", model.identity)
    list(Run(model, index, sources).outcomes())
    write_clip(Path(clip), SCENES[3:4], 1.0)
    with pytest.raises(ImagesMissingError, match="the video has changed since it was indexed"):
        reembed(tmp_path / "t.lance", other)
    listed = tmp_path / "missing.jsonl"
    _, result = reembed(tmp_path / "t.lance", other, leave_missing=listed)
    num_segments = len(index.moments(str(clip)))
    assert result == NewVectors(1, num_segments, 0, 0)
    assert len(listed.read_text().splitlines()) == num_segments
    index = Index.open(tmp_path / "t.lance")
    counts = Counter(one.status for one in Run(other, index, sources).outcomes())
    assert counts == {"skipped": 1, "embedded": 1}


def test_a_disk_that_is_not_mounted_is_noticed_early(
    model: EmbeddingModel, other: EmbeddingModel, tmp_path: Path
) -> None:
    index = Index.create(tmp_path / "t.lance", model.identity)
    rows = [Row(f"/gone/{number}.png") for number in range(3 * _HOPELESS)]
    vectors = np.eye(1, index.identity.embed_dim, dtype=np.float32)
    index.append(rows, np.repeat(vectors, len(rows), axis=0))
    work = Reembedding(index, other)
    with pytest.raises(ImagesMissingError, match="is a disk not mounted"):
        list(work.outcomes())
    assert Index.open(tmp_path / "t.lance").count() == len(rows)


def test_nothing_is_left_behind_if_everything_is_gone(
    model: EmbeddingModel, other: EmbeddingModel, tmp_path: Path
) -> None:
    index = Index.create(tmp_path / "t.lance", model.identity)
    index.append([Row("/gone/a.png")], np.eye(1, index.identity.embed_dim, dtype=np.float32))
    with pytest.raises(ImagesMissingError, match=r"1 of 1 images"):
        reembed(tmp_path / "t.lance", other, leave_missing=tmp_path / "missing.jsonl")
    assert not (tmp_path / "missing.jsonl").exists()
    assert len(contents(tmp_path / "t.lance")[0]) == 1


def test_a_changed_image_is_embedded_as_it_is_now_and_read_again_later(
    model: EmbeddingModel, other: EmbeddingModel, folder: Path, tmp_path: Path
) -> None:
    files = [folder / f"{seed}.png" for seed in range(3)]
    for seed, file in enumerate(files):
        drawing(seed).save(file)
    sources = open_sources([str(folder)], SourceOptions())
    index = Index.create(tmp_path / "t.lance", model.identity, vector_dtype="float32")
    list(Run(model, index, sources, RunOptions(tiles=TileGrid(2, 1))).outcomes())
    drawing(77, width=90, height=44).save(files[1])
    _, result = reembed(tmp_path / "t.lance", other)
    assert result == NewVectors(3 + 2 * 2, 0, 1, 2)
    rows, vectors = contents(tmp_path / "t.lance")
    (row,) = (row for row in rows.values() if row.uri == str(files[1]))
    assert (row.width, row.height) == (90, 44)
    assert other.embed_image(files[1])[0] @ vectors[row.id] > 0.999
    index = Index.open(tmp_path / "t.lance")
    assert index.vector_dtype == "float32"
    counts = Counter(one.status for one in Run(other, index, sources, RunOptions()).outcomes())
    assert counts["skipped"] == 2
    assert len(contents(tmp_path / "t.lance")[0]) == 3 * 3


def test_rows_that_changed_since_an_interruption_are_embedded_again(
    path: Path, other: EmbeddingModel, source: Path
) -> None:
    interrupt(path, other)
    index = Index.open(path)
    by_name = {row.name: row for row in index.rows()}
    gone = [by_name[str(source / "drawing0.png")].id]
    index.delete(gone)
    again, vectors = [], []
    for row, vector in index.by_ids([row.id for row in index.rows()]).values():
        if row.uri.endswith(("drawing1.png", "named/40.png")):
            again.append(Row(row.uri, mtime=5, bytes=row.bytes, sha256=row.sha256))
            vectors.append(vector)
    index.add(again, np.stack(vectors))
    expected, _ = contents(path)
    counts, result = reembed(path, other)
    assert counts["embedded"] + counts["reused"] >= len(again)
    assert counts["skipped"] >= 3
    rows, found = contents(path)
    assert rows.keys() == expected.keys()
    assert result is not None
    assert result.num_rows == len(rows)
    for name in ("drawing1.png", "drawing2.png"):
        (row,) = (row for row in rows.values() if row.uri == str(source / name))
        assert other.embed_image(source / name)[0] @ found[row.id] > 0.999


def test_an_embedding_of_what_has_changed_and_is_gone_is_not_used(
    model: EmbeddingModel, other: EmbeddingModel, folder: Path, tmp_path: Path
) -> None:
    files, path = save_drawings(folder, 6), tmp_path / "t.lance"
    sources = open_sources([str(folder)], SourceOptions())
    list(Run(model, Index.create(path, model.identity), sources).outcomes())
    interrupt(path, other)
    staged = find_staged(str(path))
    assert staged is not None
    gone = Path(next(staged.rows()).uri)
    drawing(50).save(gone)
    os.utime(gone, (1, 1))
    list(Run(model, Index.open(path), sources).outcomes())
    gone.unlink()
    with pytest.raises(ImagesMissingError, match=f"1 of 6 images .*{gone.name}"):
        reembed(path, other)
    _, result = reembed(path, other, leave_missing=tmp_path / "missing.jsonl")
    assert result == NewVectors(len(files) - 1, 1, 0, 0)


def interrupt(path: Path, model: EmbeddingModel) -> None:
    """Begin to change the model, and stop after a few images are stored."""
    outcomes = Reembedding(Index.open(path), model, ReembedOptions(batch_size=3)).outcomes()
    with patch("perception_encoder.indexing.commit._ROWS_OF_A_COMMIT", 3):
        for _ in range(4):
            next(outcomes)
        outcomes.close()
    staged = find_staged(str(path))
    assert staged is not None
    assert staged.count() >= 3


def test_an_interrupted_change_goes_on_or_is_given_up_and_no_third_model_comes_between(
    path: Path, model: EmbeddingModel, other: EmbeddingModel
) -> None:
    interrupt(path, other)
    with pytest.raises(IndexMismatchError, match=r"tiny/clip is not finished.*--reembed tiny/core"):
        reembed(path, open_tiny(WITHOUT_TEXT, tokenizer=None))
    copy = shutil.copytree(path, path.with_name("copy.lance"))
    counts, result = reembed(copy, other)
    assert counts["skipped"] >= 3
    assert result
    work = Reembedding(Index.open(path), model)
    assert list(work.outcomes()) == []
    assert (work.result, work.given_up) == (None, "tiny/clip")
    assert not os.path.exists(staging_path(str(path)))
    assert Index.open(path).identity == model.identity


def test_a_change_killed_after_the_swap_is_completed(path: Path, other: EmbeddingModel) -> None:
    with (
        patch.object(model_change, "complete_change", side_effect=KeyboardInterrupt),
        suppress(KeyboardInterrupt),
    ):
        reembed(path, other)
    assert Index.open(path).identity == other.identity
    assert reembed(path, other) == ({}, None)
    assert Index.open(path).rank_text(TextQuery.parse("red"), limit=9)
    assert not os.path.exists(staging_path(str(path)))


def test_a_second_writer_is_refused_and_readers_see_the_old_rows(
    path: Path, model: EmbeddingModel, other: EmbeddingModel, source: Path
) -> None:
    outcomes = Reembedding(Index.open(path), other, ReembedOptions(batch_size=3)).outcomes()
    next(outcomes)
    with pytest.raises(IndexBusyError), write_lock(str(path)):
        pass
    index = Index.open(path)
    query = model.embed_image(source / "drawing2.png")
    assert Path(index.search(query, k=1)[0][0].uri).name == "drawing2.png"
    for _ in outcomes:
        pass
    # An open object sees its version to the end; to refresh it would mix two models.
    assert Path(index.search(query, k=1)[0][0].uri).name == "drawing2.png"
    with pytest.raises(IndexMismatchError, match="tiny/clip"):
        index.refresh()


def test_rows_of_a_writer_without_lock_are_not_lost(
    path: Path, model: EmbeddingModel, other: EmbeddingModel
) -> None:
    def write(done: int, total: int) -> None:
        if done == total:
            added = np.eye(1, model.identity.embed_dim, dtype=np.float32)
            Index.open(path).append([Row("/new.png")], added)

    work = Reembedding(Index.open(path), other, on_commit=write)
    with pytest.raises(IndexBusyError, match="run the same command again"):
        list(work.outcomes())
    index = Index.open(path)
    assert index.identity == model.identity
    assert "/new.png" in {row.uri for row in index.rows()}


def test_a_disk_that_cannot_hold_both_is_refused_before_anything_is_written(
    path: Path, other: EmbeddingModel
) -> None:
    usage = shutil.disk_usage(path)._replace(free=1000)
    with (
        patch("shutil.disk_usage", return_value=usage),
        pytest.raises(IndexStorageError, match=r"need about .* MB are free"),
    ):
        reembed(path, other)
    assert not os.path.exists(staging_path(str(path)))
