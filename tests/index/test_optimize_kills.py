"""Optimizing that is killed in compaction and in building: nothing is lost by it."""

import json
import multiprocessing
import random
import shutil
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from index.killed_optimize import work
from numpy.typing import NDArray

from perception_encoder.index import Hit, Index, Row
from perception_encoder.types import ModelIdentity

EMBED_DIM = 48
NUM_ROWS = 6000
IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "standard", EMBED_DIM)


def unit(rows: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, EMBED_DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    return multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index in many fragments, some rows of which were replaced and removed."""
    path = tmp_path_factory.mktemp("before") / "t.lance"
    index = Index.create(path, IDENTITY)
    rows = [Row(f"{number}.png", width=number) for number in range(NUM_ROWS)]
    for start in range(0, NUM_ROWS, 200):
        index.append(rows[start : start + 200], unit(200, start))
    index.add(rows[:50], unit(50, 7))
    index.delete([row.id for row in rows[100:150]])
    return path


@pytest.fixture(scope="module")
def optimized(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That index with a searcher, which some rows are too new for."""
    path = tmp_path_factory.mktemp("optimized") / "t.lance"
    shutil.copytree(before, path)
    work(path)
    index = Index.open(path)
    index.add([Row(f"{number}.png", width=1) for number in range(60, 90)], unit(30, 8))
    return path


def answers(path: Path) -> list[list[Hit]]:
    return Index.open(path).search(unit(5, 99), k=10, exact=True)


def uris_and_vectors(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    index = Index.open(path)
    return [row.uri for row in index.rows()], index.vectors()


@pytest.mark.parametrize("start", ["before", "optimized"])
@pytest.mark.parametrize("step", ["compacts", "builds"])
def test_an_index_is_whole_after_optimizing_was_killed(
    processes: ForkServerContext,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    step: str,
    start: str,
) -> None:
    path = tmp_path / "t.lance"
    shutil.copytree(request.getfixturevalue(start), path)
    expected, (uris, vectors) = answers(path), uris_and_vectors(path)
    parent, child = processes.Pipe()
    process = processes.Process(target=work, args=(path, child))
    process.start()
    child.close()  # so that a child that fails is noticed
    while parent.recv() != step:
        pass
    time.sleep(random.Random(start).uniform(0, 0.05))
    process.kill()
    process.join()

    found, kept = uris_and_vectors(path)
    assert len(found) == NUM_ROWS - 50
    assert found == uris
    np.testing.assert_array_equal(kept, vectors)
    assert answers(path) == expected
    done = work(path)
    assert done.searcher != "none"
    assert done.fragments_after == 1
    assert answers(path) == expected
    searcher = path / "_pe" / "searcher"
    token = json.loads((searcher / "searcher.json").read_text())["token"]
    assert all(file.name.startswith((token, "searcher.json")) for file in searcher.iterdir())
    assert done.searcher_bytes == sum(file.stat().st_size for file in searcher.glob(f"{token}.*"))
    index = Index.open(path)
    new = Row("new.png")
    index.append([new], unit(1, 1234))
    assert index.search(unit(1, 1234), k=1)[0][0].id == new.id
