"""Bringing an index in step with its sources: real files, a tiny model."""

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import lance
import numpy as np
import pytest
from PIL import Image
from small_models import CORE, CountingBackend, drawing, open_tiny, save_drawings

from perception_encoder.backends.select import Replicas
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexBusyError, IndexMismatchError, IndexStorageError
from perception_encoder.index import Index, Outcome, OutcomeLog, write_lock
from perception_encoder.indexing import FailedItems, Run, RunOptions, commit
from perception_encoder.indexing.feed import Feed
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.sources import Item, SourceOptions, open_sources


def run(model: EmbeddingModel, index: Index, *names: Path, **options: int) -> list[Outcome]:
    sources = open_sources([str(name) for name in names], SourceOptions())
    return list(Run(model, index, sources, RunOptions(**options)).outcomes())


def statuses(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(outcome.status for outcome in outcomes)


def names(outcomes: list[Outcome], status: str) -> set[str]:
    return {Path(outcome.uri).name for outcome in outcomes if outcome.status == status}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_image_becomes_one_row_with_its_own_vector(
    model: EmbeddingModel, index: Index, folder: Path, batch_size: int
) -> None:
    files = save_drawings(folder, 7)
    assert statuses(run(model, index, folder, batch_size=batch_size)) == {"embedded": 7}
    assert index.count() == 7
    for path in files:
        (hit,) = index.search(model.embed_image(path), k=1)[0]
        assert hit.uri == str(path)
        assert hit.score == pytest.approx(1, abs=2e-3)
        with Image.open(path) as image:
            assert (hit.width, hit.height) == image.size


@pytest.mark.parametrize("batch_size", [1, 3])
def test_two_devices_share_the_batches_of_a_run(
    index: Index, folder: Path, batch_size: int
) -> None:
    files = save_drawings(folder, 14)
    shutil.copyfile(files[0], folder / "copy.png")
    (folder / "broken.png").write_bytes(b"no image")
    backends = [CountingBackend(open_tiny().backend) for _ in range(2)]
    model = open_tiny(backend=Replicas(backends))
    outcomes = run(model, index, folder, batch_size=batch_size)
    assert statuses(outcomes)["failed"] == 1
    assert index.count() == 15
    # A copy may be on one device while the image is on the other.
    assert sum(backend.num_images for backend in backends) in (14, 15)
    for path in files:
        hits = index.search(model.embed_image(path), k=2)[0]
        assert str(path) in {hit.uri for hit in hits}
        assert hits[0].score == pytest.approx(1, abs=2e-3)
    assert statuses(run(model, index, folder)) == {"skipped": 15, "failed": 1}


def test_batches_run_beside_each_other_though_unchanged_files_come_between(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = save_drawings(folder, 4)
    run(open_tiny(), index, *files[:2])
    events = Feed.events

    def in_this_order(feed: Feed, **options: float) -> Iterator[object]:
        found = [event for event in events(feed, **options) if event is not None]
        unchanged = [event for event in found if isinstance(event, list)]
        first, second = (event for event in found if not isinstance(event, list))
        yield from (first, *unchanged, second)

    model = open_tiny()
    encode, both_run = model.backend.encode_image, threading.Barrier(2)

    def waiting(pixels: np.ndarray) -> np.ndarray:
        both_run.wait(timeout=100)
        return encode(pixels)

    monkeypatch.setattr(Feed, "events", in_this_order)
    model.backend.concurrency, model.backend.encode_image = 2, waiting  # type: ignore[method-assign]
    outcomes = run(model, index, folder, batch_size=1)
    assert statuses(outcomes) == {"skipped": 2, "embedded": 2}


def test_only_what_changed_is_embedded_again(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    files = save_drawings(folder, 5)
    run(model, index, folder)
    drawing(50).save(files[0])
    files[1].rename(folder / "renamed.png")
    shutil.copyfile(files[2], folder / "copy.png")
    drawing(51).save(folder / "new.png")
    outcomes = run(model, index, folder)
    assert names(outcomes, "embedded") == {files[0].name, "new.png"}
    assert names(outcomes, "reused") == {"renamed.png", "copy.png"}
    assert names(outcomes, "skipped") == {path.name for path in files[2:]}
    assert names(outcomes, "vanished") == {files[1].name}
    assert index.count() == 8  # what has vanished is marked, and kept until pruning
    (hit,) = index.search(model.embed_image(files[0]), k=1)[0]
    assert hit.uri == str(files[0])
    rows = {Path(row.uri).name: row for row in index.rows()}
    assert (rows["copy.png"].width, rows["copy.png"].height) == (
        rows[files[2].name].width,
        rows[files[2].name].height,
    )


def test_unchanged_files_are_not_read(index: Index, folder: Path) -> None:
    save_drawings(folder, 4)
    counting = CountingBackend(open_tiny().backend)
    model = open_tiny(backend=counting)
    run(model, index, folder)
    for path in folder.iterdir():  # the same size and time, but nothing that could be decoded
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert statuses(run(model, index, folder)) == {"skipped": 4}
    assert counting.num_images == 4


def test_a_touched_file_takes_its_vector_back_and_its_new_time(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    (path,) = save_drawings(folder, 1)
    run(model, index, folder)
    os.utime(path, ns=(5, 5))
    assert statuses(run(model, index, folder)) == {"reused": 1}
    assert statuses(run(model, index, folder)) == {"skipped": 1}
    assert index.count() == 1


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_copies_in_one_run_are_computed_once(index: Index, folder: Path, batch_size: int) -> None:
    files = save_drawings(folder, 3)
    for number in range(3):
        shutil.copyfile(files[number], folder / f"copy{number}.png")
    counting = CountingBackend(open_tiny().backend)
    model = open_tiny(backend=counting)
    outcomes = run(model, index, folder, files[0], batch_size=batch_size)  # one is named twice
    assert statuses(outcomes) == {"embedded": 3, "reused": 3}
    assert counting.num_images == 3
    assert index.count() == 6


def test_a_content_whose_row_got_another_content_is_computed_again(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    first, second = save_drawings(folder, 2)
    run(model, index, folder)
    # Swapped: each finds its content at a row that is itself about to change.
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    os.utime(first, ns=(7, 7))
    os.utime(second, ns=(8, 8))
    assert statuses(run(model, index, folder, batch_size=1)).total() == 2
    for path in (first, second):
        (hit,) = index.search(model.embed_image(path), k=1)[0]
        assert (hit.uri, round(hit.score, 2)) == (str(path), 1.0)


def test_vanished_images_are_pruned_when_that_is_wanted(
    model: EmbeddingModel, index: Index, folder: Path, tmp_path: Path
) -> None:
    files = save_drawings(folder, 3)
    (tmp_path / "other").mkdir()
    save_drawings(tmp_path / "other", 2)
    run(model, index, folder, tmp_path / "other")
    files[0].unlink()
    shutil.rmtree(tmp_path / "other")  # is no source of this run: its rows stay
    outcomes = run(model, index, folder, prune=True)
    assert names(outcomes, "pruned") == {files[0].name}
    assert index.count() == 4
    assert statuses(run(model, index, folder, prune=True)) == {"skipped": 2}


def test_a_source_that_holds_nothing_any_more_prunes_nothing(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    for path in save_drawings(folder, 2):
        run(model, index, folder)
        path.unlink()
    sources = open_sources([str(folder)], SourceOptions())
    unmounted = Run(model, index, sources, RunOptions(prune=True))
    assert statuses(list(unmounted.outcomes())) == {"vanished": 2}
    assert index.count() == 2
    (note,) = unmounted.progress.notes
    assert str(folder) in note
    assert "2 rows are kept" in note


def bad_files(folder: Path) -> dict[str, str]:
    """Write files that cannot be used, and return the reason for each."""
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.gif").write_text("this is text")
    drawing(9, 200, 200).save(folder / "short.png")
    os.truncate(folder / "short.png", 300)
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(folder / "gone")
    drawing(3).save(folder / "latin.png")
    os.rename(folder / "latin.png", os.fsencode(folder) + b"/caf\xe9.png")
    return {
        "empty.jpg": "ImageEmptyError",
        "text.gif": "ImageDecodeError",
        "short.png": "ImageTruncatedError",
        "pipe.png": "ImageUnreadableError",
        "nowhere.png": "ImageNotFoundError",
        "caf": "ImageUnreadableError",  # and its last byte, which is no Unicode, as an escape
    }


def test_bad_files_are_reported_and_stop_nothing(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    (good,) = save_drawings(folder, 1)
    expected = bad_files(folder)
    outcomes = run(model, index, folder)
    failed = {Path(o.uri).name.split("\\")[0]: o for o in outcomes if o.status == "failed"}
    assert {name: outcome.reason for name, outcome in failed.items()} == expected
    for name, outcome in failed.items():
        assert name in outcome.message
    assert [row.uri for row in index.rows()] == [str(good)]
    assert {o.id: o.reason for o in OutcomeLog(index.path).latest(["failed"])} == {
        o.id: o.reason for o in failed.values()
    }


def test_what_failed_by_its_content_is_not_read_again_until_it_changes(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    bad = folder / "a.png"
    bad.write_bytes(b"no image")
    assert statuses(run(model, index, folder)) == {"failed": 1}
    sources = open_sources([str(folder)], SourceOptions())
    again = Run(model, index, sources)
    assert statuses(list(again.outcomes())) == {"failed": 1}
    assert again.progress.num_failed_before == 1
    assert again.progress.decode_seconds == 0
    drawing(1).save(bad)
    assert statuses(run(model, index, folder)) == {"embedded": 1}
    assert list(OutcomeLog(index.path).latest(["failed"])) == []


def test_retrying_tries_just_what_failed(model: EmbeddingModel, index: Index, folder: Path) -> None:
    save_drawings(folder, 3)
    (folder / "later.png").symlink_to(folder / "gone")
    (folder / "bad.png").write_bytes(b"no image")
    run(model, index, folder)
    drawing(7).save(folder / "gone", "PNG")
    failures = FailedItems(OutcomeLog(index.path).latest(["failed"]))
    retry = Run(model, index, [failures], RunOptions(retries_failures=True))
    outcomes = list(retry.outcomes())
    assert names(outcomes, "embedded") == {"later.png"}
    assert names(outcomes, "failed") == {"bad.png"}
    assert statuses(outcomes).total() == 2
    assert retry.progress.num_failed_before == 0
    assert statuses(run(model, index, folder)) == {"skipped": 4, "failed": 1}


def test_a_failure_whose_file_has_gone_is_no_failure_any_more(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    save_drawings(folder, 1)
    (folder / "bad.png").write_bytes(b"no image")
    run(model, index, folder)
    (folder / "bad.png").unlink()
    assert statuses(run(model, index, folder)) == {"skipped": 1, "vanished": 1}
    assert list(OutcomeLog(index.path).latest(["failed"])) == []


def test_a_run_is_named_after_when_it_began_in_utc(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_drawings(folder, 1)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    before = datetime.now(tz=UTC).replace(microsecond=0)
    run(model, index, folder)
    monkeypatch.undo()
    time.tzset()
    log = lance.dataset(str(Path(index.path) / "_pe" / "outcomes.lance")).to_table()
    (name,) = set(log["run"].to_pylist())
    began = datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert before <= began <= datetime.now(tz=UTC)


def test_outcomes_tell_how_long_it_took(model: EmbeddingModel, index: Index, folder: Path) -> None:
    files = save_drawings(folder, 3)
    shutil.copyfile(files[0], folder / "z.png")
    outcomes = {Path(o.uri).name: o for o in run(model, index, folder)}
    for path in files:
        assert outcomes[path.name].decode_ms > 0
        assert outcomes[path.name].bytes == path.stat().st_size
    assert all(outcomes[path.name].encode_ms > 0 for path in files[1:])
    alike = (outcomes[files[0].name], outcomes["z.png"])  # whichever was read first is computed
    assert sorted(outcome.encode_ms > 0 for outcome in alike) == [False, True]


def test_the_next_files_are_read_while_the_model_computes(index: Index, folder: Path) -> None:
    save_drawings(folder, 6)
    model = open_tiny()
    third_is_read = threading.Event()
    encode, num_read = model.backend.encode_image, 0

    class Watched(ImageProcessor):
        def resize_measured(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            nonlocal num_read
            num_read += 1
            if num_read == 3:
                third_is_read.set()
            return super().resize_measured(*arguments, **options)  # type: ignore[arg-type]

    def waiting(pixels: np.ndarray) -> np.ndarray:
        assert third_is_read.wait(100), "nothing was read while the first batch was computed"
        return encode(pixels)

    model.processor = Watched(CORE.image, CORE.vision.image_size)
    model.backend.encode_image = waiting  # type: ignore[method-assign]
    assert statuses(run(model, index, folder, batch_size=2)) == {"embedded": 6}


def test_metadata_of_several_kinds_stops_nothing_and_is_told(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    files = save_drawings(folder, 3)
    for name, stars in zip(files, (5, 3, "many"), strict=True):
        line = json.dumps({"path": str(name), "stars": stars})
        (folder / f"{name.stem}.jsonl").write_text(line)
    for path in sorted(folder.glob("*.jsonl")):
        sources = open_sources([str(path)], SourceOptions())
        listed = Run(model, index, sources)
        assert statuses(list(listed.outcomes())) == {"embedded": 1}
    assert [row.metadata.get("stars") for row in index.rows()] == [5, 3, None]
    (note,) = listed.progress.notes
    assert "'stars': 1 values" in note


class Endless:
    """A source of different images that never ends, and counts what it was asked for."""

    name = "endless"

    def __init__(self, data: list[bytes]) -> None:
        self.data = data
        self.num_listed = self.num_read = 0

    def items(self) -> Iterator[Item]:
        while True:
            self.num_listed += 1
            yield Item(f"/endless/{self.num_listed}", self._read, mtime=1, bytes=1)

    def covers(self, uri: str, member: str | None) -> bool:
        del uri, member
        return False

    def _read(self) -> bytes:
        self.num_read += 1
        return self.data[self.num_read % len(self.data)] + self.num_read.to_bytes(4, "big")


def test_a_run_reads_no_further_ahead_than_its_window(
    index: Index, folder: Path, model: EmbeddingModel
) -> None:
    source = Endless([path.read_bytes() for path in save_drawings(folder, 3)])
    endless = Run(model, index, [source], RunOptions(batch_size=4))
    outcomes = endless.outcomes()
    first = [next(outcomes) for _ in range(40)]
    num_done = endless.progress.counts.total()
    outcomes.close()  # type: ignore[attr-defined]  # what a person's Ctrl-C comes to
    assert statuses(first) == {"embedded": 40}
    assert source.num_listed < 10_000
    assert num_done <= index.count() <= source.num_read
    assert len(OutcomeLog(index.path).counts()) == 1
    assert OutcomeLog(index.path).counts()["embedded"] == index.count()


def test_an_interrupted_run_keeps_what_it_computed_and_is_completed(
    index: Index, folder: Path
) -> None:
    save_drawings(folder, 9)
    model = open_tiny()
    encode, num_calls = model.backend.encode_image, 0

    def interrupted(pixels: np.ndarray) -> np.ndarray:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            raise KeyboardInterrupt
        return encode(pixels)

    model.backend.encode_image = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(model, index, folder, batch_size=2)
    assert index.count() == 4
    assert statuses(run(open_tiny(), index, folder)) == {"embedded": 5, "skipped": 4}


def test_an_index_of_another_model_is_refused(
    model: EmbeddingModel, tmp_path: Path, folder: Path
) -> None:
    save_drawings(folder, 1)
    other = open_tiny(processor=ImageProcessor(CORE.image, 32, preprocess="reference"))
    index = Index.create(tmp_path / "other.lance", other.identity)
    with pytest.raises(IndexMismatchError, match="reference"):
        run(model, index, folder)
    assert index.count() == 0


def test_a_second_run_on_the_index_is_refused_and_searches_go_on(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    files = save_drawings(folder, 2)
    run(model, index, folder)
    with write_lock(index.path):
        with pytest.raises(IndexBusyError, match="--wait"):
            run(model, index, folder)
        assert len(Index.open(index.path).search(model.embed_image(files[0]), k=5)[0]) == 2


def test_readers_see_whole_commits_while_a_run_writes(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "_ROWS_OF_A_COMMIT", 6)
    files = save_drawings(folder, 48)
    query = model.embed_image(files[0])
    seen = Counter[int]()
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            reader = Index.open(index.path)
            num_hits = len(reader.search(query, k=100)[0])
            assert num_hits == reader.count() == len(reader.vectors())
            seen[num_hits] += 1

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        assert statuses(run(model, index, folder, batch_size=3)) == {"embedded": 48}
        is_done.set()
        reader.result()
    assert len(seen) > 1
    assert all(count % 6 == 0 for count in seen)


def test_an_index_that_cannot_be_written_says_so_and_still_opens(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    save_drawings(folder, 2)
    run(model, index, folder)
    save_drawings(folder, 4)
    data = Path(index.path, "data")
    data.rename(data.with_name("data-away"))
    data.write_text("in the way")  # for root, no permission is ever missing
    with pytest.raises(IndexStorageError, match="Rows committed before are kept"):
        run(model, index, folder)
    data.unlink()
    data.with_name("data-away").rename(data)
    assert Index.open(index.path).count() == 2
    assert statuses(run(model, index, folder)) == {"embedded": 2, "reused": 2}
