"""Runs that are killed at random moments: the index opens, and the next run completes it."""

import multiprocessing
import random
import shutil
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from indexing.killed_run import work
from numpy.typing import NDArray
from small_models import drawing, open_tiny
from video_clips import SCENES, write_clip

from perception_encoder.index import Index, OutcomeLog, Row

NUM_KILLS = 6


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have torch already, so that a run begins within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "small_models"])
    return context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def before(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of an earlier state of the folder: then images came, changed, moved and went."""
    index = tmp_path_factory.mktemp("before") / "t.lance"
    Index.create(index, open_tiny().identity)
    for seed in range(30):
        drawing(seed).save(folder / f"{seed}.png")
    for name in ("stays", "changes", "moves", "goes"):
        write_clip(folder / f"{name}.mp4", SCENES[: len(name) - 2], 1.2)
    work(folder, index)
    for seed in range(30, 80):
        drawing(seed).save(folder / f"{seed}.png")
    for seed in range(8):
        drawing(100 + seed).save(folder / f"{seed}.png")
    for seed in range(8, 12):
        (folder / f"{seed}.png").rename(folder / f"moved{seed}.png")
    for seed in range(12, 16):
        (folder / f"{seed}.png").unlink()
    (folder / "bad.png").write_bytes(b"no image")
    write_clip(folder / "changes.mp4", SCENES[3:], 2.5)
    (folder / "moves.mp4").rename(folder / "moved.mp4")
    (folder / "goes.mp4").unlink()
    write_clip(folder / "comes.mkv", SCENES[1:4], 1.5)
    return index


def contents(path: Path) -> tuple[list[Row], NDArray[np.float32]]:
    index = Index.open(path)
    rows = list(index.rows())
    order = sorted(range(len(rows)), key=lambda number: rows[number].id)
    return [rows[number] for number in order], index.vectors()[order]


def segments(rows: list[Row]) -> list[list[Row]]:
    """The segments of each video: a killed run leaves all of them as before, or all new ones."""
    videos: dict[str, list[Row]] = {}
    for row in rows:
        if row.member is not None:
            videos.setdefault(row.uri, []).append(row)
    return list(videos.values())


@pytest.fixture(scope="module")
def expected(
    folder: Path, before: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Row], NDArray[np.float32]]:
    index = tmp_path_factory.mktemp("expected") / "t.lance"
    shutil.copytree(before, index)
    work(folder, index)
    rows, vectors = contents(index)
    assert sum(row.member is None for row in rows) == 76
    videos = {Path(row.uri).name for row in rows if row.member is not None}
    assert videos == {"stays.mp4", "changes.mp4", "moved.mp4", "comes.mkv"}
    return rows, vectors


@pytest.fixture(scope="module")
def seconds_of_a_run(
    processes: ForkServerContext,
    folder: Path,
    before: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> float:
    index = tmp_path_factory.mktemp("timed") / "t.lance"
    shutil.copytree(before, index)
    parent, child = processes.Pipe()
    process = processes.Process(target=work, args=(folder, index, child))
    process.start()
    child.close()  # so that a child that fails is noticed
    assert parent.recv() == "begins"
    started = time.monotonic()
    assert parent.recv() == "done"
    seconds = time.monotonic() - started
    process.join()
    return seconds


@pytest.mark.parametrize("seed", range(NUM_KILLS))
def test_a_killed_run_leaves_an_index_that_the_next_run_completes(
    processes: ForkServerContext,
    folder: Path,
    before: Path,
    expected: tuple[list[Row], NDArray[np.float32]],
    seconds_of_a_run: float,
    tmp_path: Path,
    seed: int,
) -> None:
    index = tmp_path / "t.lance"
    shutil.copytree(before, index)
    parent, child = processes.Pipe()
    process = processes.Process(target=work, args=(folder, index, child))
    process.start()
    child.close()  # so that a child that fails is noticed
    assert parent.recv() == "begins"
    time.sleep(random.Random(seed).uniform(0, seconds_of_a_run))
    process.kill()
    process.join()

    rows, _ = contents(index)
    assert len({row.id for row in rows}) == len(rows)
    whole = segments(contents(before)[0]) + segments(expected[0])
    assert all(one in whole for one in segments(rows))

    work(folder, index)
    rows, vectors = contents(index)
    assert rows == expected[0]
    # The batch an image rides in moves its float32 vector by 2e-5, and float16 has steps of 5e-4.
    np.testing.assert_allclose(vectors, expected[1], atol=1e-3)
    counts = OutcomeLog(str(index)).counts()
    assert counts["failed"] == 1
    assert counts["embedded"] + counts["reused"] + counts["skipped"] == 76 + 4
