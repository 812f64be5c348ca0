"""An index comes about with its first rows; file times and left-out folders in runs over it."""

import os
import shutil
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import CORE, open_tiny, save_drawings

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexMismatchError
from perception_encoder.index import Index, OutcomeLog, Row, write_lock
from perception_encoder.indexing import FailedItems, Run, RunOptions
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.types import ModelIdentity

WILD = (10_413_792_000, -10_000_000_000, -1, 0)  # seconds: the years 2300, 1653, and 1970


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "new" / "t.lance"


def prepared(place: Path, model: EmbeddingModel) -> Index:
    return Index.open_or_prepare(place, model.identity)


def run(
    model: EmbeddingModel,
    index: Index,
    folder: Path,
    exclude: tuple[str, ...] = (),
    **options: bool,
) -> tuple[Counter[str], list[str]]:
    """The statuses of a run and its notes."""
    sources = open_sources([str(folder)], SourceOptions(exclude=exclude))
    running = Run(model, index, sources, RunOptions(**options))
    statuses = Counter(outcome.status for outcome in running.outcomes())
    return statuses, running.progress.notes  # type: ignore[return-value]


def wild_files(folder: Path) -> None:
    for path, time in zip(save_drawings(folder, 4), WILD, strict=True):
        os.utime(path, (time, time))
    (folder / "bad.png").write_bytes(b"no image")
    os.utime(folder / "bad.png", (10_413_792_000, 10_413_792_000))


def test_wild_file_times_are_clamped_for_rows_and_outcomes_alike(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    wild_files(folder)
    index = prepared(place, model)
    assert run(model, index, folder)[0] == {"embedded": 4, "failed": 1}
    edge = 2**63 - 1
    oldest = min(
        path.stat().st_mtime_ns for path in folder.iterdir()
    )  # some file systems clamp too
    expected = sorted([edge, max(oldest, -edge), -(10**9), 0])
    assert sorted(row.mtime or 0 for row in index.rows()) == expected
    outcomes = list(OutcomeLog(index.path).latest(["embedded"]))
    assert sorted(outcome.mtime or 0 for outcome in outcomes) == expected
    # What is clamped has not changed, and what failed for good is not read again.
    sources = open_sources([str(folder)], SourceOptions())
    again = Run(model, index, sources)
    assert Counter(outcome.status for outcome in again.outcomes()) == {"skipped": 4, "failed": 1}
    assert again.progress.num_failed_before == 1
    retried = Run(model, index, [FailedItems(OutcomeLog(index.path).latest(["failed"]))])
    assert [outcome.mtime for outcome in retried.outcomes()] == [edge]


def test_what_fails_again_with_its_source_named_stays_a_failure(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    wild_files(folder)
    index = prepared(place, model)
    run(model, index, folder)
    assert run(model, index, folder, retries_failures=True)[0] == {"skipped": 4, "failed": 1}
    assert len(list(OutcomeLog(index.path).latest(["failed"]))) == 1


@pytest.mark.parametrize("content", [None, b"no image"])
def test_without_an_image_nothing_is_written(
    model: EmbeddingModel, place: Path, folder: Path, content: bytes | None
) -> None:
    if content is not None:
        (folder / "bad.png").write_bytes(content)
    index = prepared(place, model)
    expected = {"failed": 1} if content is not None else {}
    assert run(model, index, folder, prune=True)[0] == expected
    assert not index.is_created
    assert index.count() == 0
    assert not place.parent.exists()
    place.mkdir(parents=True)
    run(model, index, folder)
    assert list(place.iterdir()) == []


def test_failures_before_the_first_rows_are_kept_with_them(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    index = prepared(place, model)
    (folder / "0.png").write_bytes(b"no image")
    run(model, index, folder)
    save_drawings(folder / "..", 2)
    for path in (folder / "..").glob("*.png"):
        shutil.move(path, folder / f"z{path.name}")
    assert run(model, index, folder)[0] == {"embedded": 2, "failed": 1}
    assert index.is_created
    assert Index.open(place).count() == 2
    assert [Path(o.uri).name for o in OutcomeLog(index.path).latest(["failed"])] == ["0.png"]


def test_very_many_failures_are_written_without_an_image(
    model: EmbeddingModel, place: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.indexing.commit._OUTCOMES_OF_A_COMMIT", 3)
    for number in range(5):
        (folder / f"{number}.png").write_bytes(b"no image")
    index = prepared(place, model)
    assert run(model, index, folder)[0] == {"failed": 5}
    assert len(list(OutcomeLog(index.path).latest(["failed"]))) >= 3


def test_two_runs_that_prepared_one_index_fill_it_one_after_the_other(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    save_drawings(folder, 4)
    first, second = prepared(place, model), prepared(place, model)
    found: list[Counter[str]] = []
    with write_lock(str(place)):
        threads = [
            threading.Thread(
                target=lambda index=index: found.append(run(model, index, folder, wait=True)[0])
            )
            for index in (first, second)
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(100)
    assert sorted(map(dict, found), key=str) == [{"embedded": 4}, {"skipped": 4}]
    assert Index.open(place).count() == 4


def test_a_run_waits_for_one_that_leaves_nothing(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    save_drawings(folder, 1)
    index = prepared(place, model)
    found: list[Counter[str]] = []
    waits = threading.Thread(target=lambda: found.append(run(model, index, folder, wait=True)[0]))
    with write_lock(str(place)):
        waits.start()
    waits.join(100)
    assert found == [{"embedded": 1}]


def test_many_may_open_or_create_one_index_at_once(tmp_path: Path, model: EmbeddingModel) -> None:
    def create(place: Path, together: threading.Barrier) -> int:
        together.wait(100)
        return Index.open_or_create(place, model.identity).count()

    with ThreadPoolExecutor(4) as pool:
        for number in range(5):
            place, together = tmp_path / f"{number}.lance", threading.Barrier(4)
            creating = [pool.submit(create, place, together) for _ in range(4)]
            assert [done.result(60) for done in creating] == [0] * 4


def test_another_models_index_that_came_first_is_noticed(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    save_drawings(folder, 1)
    index = prepared(place, model)
    other = Index.create(place, ModelIdentity("other", "f", "standard", 8))
    other.append([Row("a.png")], np.eye(1, 8, dtype=np.float32))
    with pytest.raises(IndexMismatchError, match="other"):
        run(model, index, folder)
    assert Index.open(place).identity.model_id == "other"


def nas(folder: Path) -> None:
    save_drawings(folder, 2)
    for number, name in enumerate(("@eaDir", "#recycle", "deep/@EADIR/x", ".thumbnails")):
        (folder / name).mkdir(parents=True)
        save_drawings(folder / name, 1)
        (path,) = (folder / name).glob("*.png")
        path.rename(folder / name / f"thumb{number}.png")


def test_folders_of_systems_are_left_out_by_default_and_told(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    nas(folder)
    index = prepared(place, model)
    statuses, (note,) = run(model, index, folder)
    assert statuses == {"embedded": 2}
    assert "#recycle (1), @EADIR (1), @eaDir (1)" in note
    assert "--include-hidden" in note
    assert run(model, index, folder / "@eaDir")[0] == {"reused": 1}  # whoever names it means it
    sources = open_sources([str(folder)], SourceOptions(include_hidden=True))
    assert sum(1 for _ in sources[0].items()) == 6


@pytest.mark.parametrize(
    "exclude", [("@eaDir", "#recycle", "deep"), ("*thumb[0-2]*",), ("deep/**", "[@#]*")]
)
def test_pruning_removes_what_was_excluded_after_it_was_indexed(
    model: EmbeddingModel, place: Path, folder: Path, exclude: tuple[str, ...]
) -> None:
    nas(folder)
    (folder / "deep" / "@EADIR" / "x" / "bad.png").write_bytes(b"no image")
    index = prepared(place, model)
    sources = open_sources([str(folder)], SourceOptions(include_hidden=True))
    assert sum(1 for _ in Run(model, index, sources).outcomes()) == 7
    assert index.count() == 6
    statuses, notes = run(model, index, folder, exclude)
    assert statuses == {"skipped": 2, "vanished": 1}  # the failure is over: nobody wants it
    assert "3 images that this run leaves out are in the index; --prune removes them" in notes[0]
    assert index.count() == 6
    statuses, _ = run(model, index, folder, exclude, prune=True)
    assert statuses == {"skipped": 2, "pruned": 3}
    # Hidden names were asked for when they were indexed, and nobody has excluded them.
    assert sorted(Path(row.uri).parent.name for row in index.rows()) == [".thumbnails", "in", "in"]
    assert run(model, index, folder, (".*",), prune=True)[0] == {"skipped": 2, "pruned": 1}


def test_pruning_an_archive_that_was_excluded_removes_its_rows_only(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    for path in save_drawings(folder, 2):
        with tarfile.open(folder / f"{path.stem}.tar", "w") as archive:
            archive.add(path, path.name)
    index = prepared(place, model)
    pattern = folder / "*.tar"
    assert run(model, index, pattern)[0] == {"embedded": 2}
    (first, second) = sorted(folder.glob("*.tar"))
    assert run(model, index, pattern, (first.name,))[0] == {"skipped": 1}
    assert run(model, index, pattern, (first.name,), prune=True)[0] == {"skipped": 1, "pruned": 1}
    assert [row.uri for row in index.rows()] == [str(second)]


def test_of_an_image_that_is_named_twice_the_first_entry_counts_and_others_are_counted(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    paths = save_drawings(folder, 2)
    rows = [f"{path.name},{note}" for note in ("x", "y", "x") for path in paths]
    far = [f"no{number}.png,z" for number in range(300)]  # more than are listed at once
    table = folder / "t.csv"
    table.write_text("\n".join(["path,note", *rows, *far, f"{paths[0].name},w", rows[0]]))
    index = prepared(place, model)
    statuses, notes = run(model, index, table)
    assert statuses == {"embedded": 2, "failed": 300}
    assert [row.metadata for row in index.rows()] == [{"note": "x"}] * 2
    assert [note[:50] for note in notes] == ["3 entries name an image that an earlier entry name"]
    assert run(model, index, folder)[1] == []  # sources that overlap say nothing else


def test_an_index_has_a_limited_number_of_columns_whatever_the_number_of_sources(
    model: EmbeddingModel, place: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.indexing.commit.MAX_COLUMNS", 3)
    index = prepared(place, model)
    for number, path in enumerate(save_drawings(folder, 3)):
        table = folder / f"{number}.csv"
        table.write_text(f"path,a{number},b{number}\n{path.name},1,2")
        _, notes = run(model, index, table)
        assert any(f"{number} columns of metadata" in note for note in notes) == (number > 0)
    assert sorted(name for name in index.schema.names if name[0] in "ab" and len(name) == 2) == [
        "a0", "a1", "b0",
    ]  # fmt: skip


def test_long_texts_are_committed_by_their_size(
    model: EmbeddingModel, place: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.indexing.commit._CHARACTERS_OF_A_COMMIT", 1000)
    sizes: list[int] = []
    real = Index.append
    monkeypatch.setattr(
        Index,
        "append",
        lambda index, rows, vectors: sizes.append(len(rows)) or real(index, rows, vectors),
    )
    paths = save_drawings(folder, 8)
    table = folder / "t.csv"
    table.write_text("\n".join(["path,note", *(f"{path.name},{'x' * 600}" for path in paths)]))
    sources = open_sources([str(table)], SourceOptions())
    index = prepared(place, model)
    outcomes = list(Run(model, index, sources, RunOptions(batch_size=2)).outcomes())
    assert len(outcomes) == 8
    assert max(sizes) <= 4


def test_what_is_wrong_with_an_archive_or_a_row_is_said_again_when_it_is_retried(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    (path,) = save_drawings(folder, 1)
    (folder / "t.csv").write_text(f'path,note\n{path.name},x\n{path.name},"never')
    (folder / "x.tar").write_bytes(b"no archive")
    index = prepared(place, model)
    sources = open_sources([str(folder / "t.csv"), str(folder / "x.tar")], SourceOptions())
    failed = [one for one in Run(model, index, sources).outcomes() if one.status == "failed"]
    for _ in range(2):
        source = FailedItems(OutcomeLog(index.path).latest(["failed"]))
        options = RunOptions(retries_failures=True)
        again = list(Run(model, index, [source], options).outcomes())
        assert {one.uri: one.message.partition(";")[0] for one in again} == {
            one.uri: one.message.partition(";")[0] for one in failed
        }
        assert all(one.message.count("name it as a source") <= 1 for one in again)


def test_an_index_without_rows_takes_any_model(
    model: EmbeddingModel, place: Path, folder: Path
) -> None:
    other = open_tiny(replace(CORE, id="tiny/other"))
    save_drawings(folder, 3)
    index = prepared(place, model)
    run(model, index, folder)
    index.delete([row.id for row in index.rows()])
    again = Index.open_or_prepare(place, other.identity)
    assert again.count() == 0
    assert run(other, again, folder)[0] == {"embedded": 3}
    found = Index.open(place)
    assert (found.identity, found.count()) == (other.identity, 3)
    with pytest.raises(IndexMismatchError):
        Index.open_or_prepare(place, model.identity)
