"""Videos in an indexing run: real clips, a tiny model."""

import os
import shutil
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from small_models import drawing
from video_clips import SCENES, write_clip

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index, Outcome, Row
from perception_encoder.indexing import Run, RunOptions
from perception_encoder.indexing.videos import segment_digest
from perception_encoder.sources import SourceOptions, open_sources, read_image
from perception_encoder.video import VideoDecoder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [
        write_clip(folder / "a.mp4", SCENES[:3]),
        write_clip(folder / "b.mkv", SCENES[3:5], 3.0),
    ]


@pytest.fixture
def folder(tmp_path: Path, clips: list[Path]) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    drawing(1).save(folder / "image.png")
    for clip in clips:
        shutil.copy(clip, folder)
    return folder


def run(
    model: EmbeddingModel, index: Index, *names: Path, notes: list[str] | None = None, **options
) -> Counter[str]:
    sources = open_sources([str(name) for name in names], SourceOptions(videos=True))
    work = Run(model, index, sources, RunOptions(**options))
    outcomes = list(work.outcomes())
    if notes is not None:
        notes += work.progress.notes
    return Counter(outcome.status for outcome in outcomes)


def segments(index: Index, path: Path) -> list[Row]:
    return [row for row, _ in index.moments(str(path))]


def times_of(rows: list[Row]) -> list[tuple[object, object]]:
    return [(row.metadata["start"], row.metadata["end"]) for row in rows]


def test_segments_are_rows_with_their_times_and_vectors(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    assert run(model, index, folder, batch_size=2) == {"embedded": 3}
    rows = segments(index, folder / "a.mp4")
    assert rows[0].metadata["start"] == 0
    assert rows[-1].metadata["end"] == pytest.approx(6, abs=0.01)
    for row, following in pairwise(rows):
        assert row.metadata["end"] == following.metadata["start"]
    status = (folder / "a.mp4").stat()
    for row in rows:
        assert (row.width, row.height) == (160, 120)
        assert (row.bytes, row.mtime) == (status.st_size, status.st_mtime_ns)
    assert len({row.sha256 for row in rows}) == len(rows)
    decoder = VideoDecoder()
    frames = list(decoder.sample(folder / "a.mp4"))
    decoder.close()
    for row, vector in index.moments(str(folder / "a.mp4")):
        inside = [
            frame.pixels
            for frame in frames
            if row.metadata["start"] <= frame.time < row.metadata["end"]
        ]
        expected = model.embed_video(inside, input_color_format="rgb")[0]
        assert vector @ expected > 0.999
        data = read_image(row.uri, row.member)
        assert data.startswith(b"\xff\xd8\xff")


def test_an_unchanged_video_is_not_opened(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, index, folder)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a video was opened")

    monkeypatch.setattr(VideoDecoder, "sample", refuse)
    monkeypatch.setattr("perception_encoder.indexing.video_contents.open_regular_file", refuse)
    assert run(model, index, folder) == {"skipped": 3}


def test_a_changed_video_loses_its_old_segments(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    run(model, index, folder)
    others = segments(index, folder / "b.mkv")
    write_clip(folder / "a.mp4", SCENES[2:3], 1.0)
    assert run(model, index, folder) == {"embedded": 1, "skipped": 2}
    assert [row.metadata["end"] for row in segments(index, folder / "a.mp4")] == [1.0]
    assert segments(index, folder / "b.mkv") == others
    assert index.count() == 1 + 1 + len(others)


def test_copies_and_renamed_videos_reuse_their_segments(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, index, folder)
    expected = index.moments(str(folder / "a.mp4"))
    others = segments(index, folder / "b.mkv")
    (folder / "a.mp4").rename(folder / "moved.mp4")
    shutil.copy(folder / "b.mkv", folder / "copy.mkv")
    monkeypatch.setattr(VideoDecoder, "sample", None)
    assert run(model, index, folder, prune=True) == {"reused": 2, "skipped": 2, "pruned": 1}
    found = index.moments(str(folder / "moved.mp4"))
    assert [row.member for row, _ in found] == [row.member for row, _ in expected]
    assert np.array_equal([v for _, v in found], [v for _, v in expected])
    assert times_of(segments(index, folder / "copy.mkv")) == times_of(others)
    assert segments(index, folder / "a.mp4") == []


def test_copies_in_one_run_are_decoded_once(
    model: EmbeddingModel, index: Index, tmp_path: Path, clips: list[Path]
) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    for name in ("1.mp4", "2.mp4", "3.mp4"):
        shutil.copy(clips[0], folder / name)
    assert run(model, index, folder) == {"embedded": 1, "reused": 2}
    assert len({tuple(times_of(segments(index, path))) for path in folder.iterdir()}) == 1


def test_a_gone_video_vanishes_as_one_item_and_is_pruned(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    run(model, index, folder)
    (folder / "a.mp4").unlink()
    assert run(model, index, folder) == {"skipped": 2, "vanished": 1}
    assert segments(index, folder / "a.mp4")
    assert run(model, index, folder, prune=True) == {"skipped": 2, "pruned": 1}
    assert segments(index, folder / "a.mp4") == []
    assert segments(index, folder / "b.mkv")


def test_a_bad_video_fails_alone_and_is_not_decoded_again(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    (folder / "empty.mov").touch()
    assert run(model, index, folder) == {"embedded": 3, "failed": 2}
    assert run(model, index, folder) == {"skipped": 3, "failed": 2}
    shutil.copy(folder / "a.mp4", folder / "bad.mp4")
    assert run(model, index, folder) == {"skipped": 3, "failed": 1, "reused": 1}


def test_a_failed_change_keeps_the_old_segments(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    run(model, index, folder)
    before = segments(index, folder / "a.mp4")
    (folder / "a.mp4").write_bytes(b"no video" * 100)
    assert run(model, index, folder) == {"failed": 1, "skipped": 2}
    assert segments(index, folder / "a.mp4") == before


def test_a_video_that_changes_while_it_is_read_fails_for_now(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = VideoDecoder.sample

    def sample_while_growing(self: VideoDecoder, path: str, **options: int) -> object:
        with open(path, "ab") as file:
            file.write(b"more")
        return sample(self, path, **options)

    monkeypatch.setattr(VideoDecoder, "sample", sample_while_growing)
    assert run(model, index, folder / "a.mp4") == {"failed": 1}
    monkeypatch.undo()
    assert run(model, index, folder / "a.mp4") == {"embedded": 1}


def test_without_the_extra_videos_are_counted_and_kept(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, index, folder)
    for place in ("sources.open", "video.decoder"):
        monkeypatch.setattr(f"perception_encoder.{place}.can_decode", lambda: False)
    notes: list[str] = []
    assert run(model, index, folder, prune=True, notes=notes) == {"skipped": 1}
    assert segments(index, folder / "a.mp4")
    assert any("left out 2 videos" in note and "pip install" in note for note in notes)
    write_clip(folder / "new.mp4", SCENES[:1], 0.5)
    assert run(model, index, folder / "new.mp4") == {"failed": 1}


def test_an_image_with_the_bytes_of_a_video_is_no_copy(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    run(model, index, folder)
    shutil.copy(folder / "a.mp4", folder / "wrong.jpg")
    assert run(model, index, folder) == {"skipped": 3, "failed": 1}


def test_videos_are_listed_only_for_indexes(folder: Path) -> None:
    (source,) = open_sources([str(folder)], SourceOptions())
    assert [Path(item.uri).name for item in source.items()] == ["image.png"]
    assert segment_digest("ab" * 32, 0) == "ab" * 32


def test_damaged_packets_are_counted_stored_and_reported(
    model: EmbeddingModel, index: Index, tmp_path: Path, clips: list[Path]
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    content = bytearray(clips[0].read_bytes())
    middle = content.index(b"mdat") + 3000
    content[middle : middle + 4000] = bytes(4000)
    (folder / "damaged.mp4").write_bytes(content)
    notes: list[str] = []
    assert run(model, index, folder, notes=notes) == {"embedded": 1}
    counts = {row.metadata["damaged_packets"] for row in segments(index, folder / "damaged.mp4")}
    (count,) = counts
    assert isinstance(count, int)
    assert count > 0
    note = next(note for note in notes if "could not be decoded" in note)
    assert f"damaged.mp4 ({count} packet" in note
    shutil.copy(folder / "damaged.mp4", folder / "copy.mp4")
    assert run(model, index, folder) == {"reused": 1, "skipped": 1}
    assert {
        row.metadata["damaged_packets"] for row in segments(index, folder / "copy.mp4")
    } == counts


def test_videos_in_archives_are_counted(
    model: EmbeddingModel, index: Index, tmp_path: Path, clips: list[Path]
) -> None:
    drawing(1).save(tmp_path / "image.png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "image.png", "image.png")
        archive.add(clips[0], "clips/a.mp4")
        archive.add(clips[1], "b.mkv")
        archive.add(clips[1], "__MACOSX/._b.mkv")
    notes: list[str] = []
    assert run(model, index, tmp_path / "a.tar", notes=notes) == {"embedded": 1}
    assert any("a.tar: left out 2 videos" in note and "unpack" in note for note in notes)


def test_videos_elsewhere_are_refused_before_they_are_fetched(
    model: EmbeddingModel, index: Index
) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/bucket/clip.mp4", b"video")
    for name in ("memory://bucket/clip.mp4", "https://127.0.0.1:9/clip.mp4"):
        (outcome,) = Run(model, index, open_sources([name], SourceOptions(videos=True))).outcomes()
        assert outcome.status == "failed"
        assert "videos are read from this machine only; download it" in outcome.message
    notes: list[str] = []
    sources = open_sources(["memory://bucket"], SourceOptions(videos=True))
    work = Run(model, index, sources)
    assert list(work.outcomes()) == []
    assert any("left out 1 video" in note for note in work.progress.notes), notes


def test_a_stopped_run_leaves_no_process(model: EmbeddingModel, index: Index, folder: Path) -> None:
    sources = open_sources([str(folder)], SourceOptions(videos=True))
    outcomes = Run(model, index, sources).outcomes()
    first: Outcome = next(outcomes)
    assert first.status == "embedded"
    outcomes.close()
    assert os.path.exists(index.path)
    assert run(model, index, folder)["failed"] == 0
