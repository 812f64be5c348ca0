"""Changes of an index's model that are killed at random moments: the next call completes them."""

import multiprocessing
import os
import random
import shutil
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from indexing.killed_reembed import work
from numpy.typing import NDArray
from small_models import CLIP, drawing, open_tiny

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index, Row
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.model_change import staging_path
from perception_encoder.indexing import Run
from perception_encoder.sources import SourceOptions, open_sources

NUM_KILLS = 4
NUM_IMAGES = 60


def contents(path: Path) -> tuple[list[Row], NDArray[np.float32]]:
    index = Index.open(path)
    return list(index.rows()), index.vectors()


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have torch already, so that a run begins within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "small_models"])
    return context


@pytest.fixture(scope="module")
def before(model: EmbeddingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(NUM_IMAGES):
        drawing(seed).save(folder / f"{seed}.png")
    path = tmp_path_factory.mktemp("before") / "t.lance"
    index = Index.create(path, model.identity)
    list(Run(model, index, open_sources([str(folder)], SourceOptions())).outcomes())
    return path


@pytest.fixture(scope="module")
def expected(
    processes: ForkServerContext, before: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Row], NDArray[np.float32], float]:
    """The rows and embeddings of a change that nothing interrupts, and the seconds it takes."""
    path = shutil.copytree(before, tmp_path_factory.mktemp("expected") / "t.lance")
    parent, child = processes.Pipe()
    process = processes.Process(target=work, args=(path, child))
    process.start()
    child.close()  # so that a child that fails is noticed
    assert parent.recv() == "begins"
    started = time.monotonic()
    assert parent.recv() == "done"
    seconds = time.monotonic() - started
    process.join()
    rows, vectors = contents(path)
    assert rows == contents(before)[0]
    return rows, vectors, seconds


@pytest.mark.parametrize("seed", range(NUM_KILLS))
def test_a_killed_change_leaves_an_index_of_one_model_that_the_next_call_completes(
    processes: ForkServerContext,
    before: Path,
    expected: tuple[list[Row], NDArray[np.float32], float],
    tmp_path: Path,
    seed: int,
) -> None:
    rows, vectors, seconds = expected
    path = shutil.copytree(before, tmp_path / "t.lance")
    parent, child = processes.Pipe()
    process = processes.Process(target=work, args=(path, child))
    process.start()
    child.close()
    assert parent.recv() == "begins"
    # The last of them is about when the rows are swapped.
    share = 0.9 if seed == NUM_KILLS - 1 else random.Random(seed).uniform(0, 1)
    time.sleep(share * seconds)
    process.kill()
    process.join()

    found, found_vectors = contents(path)
    assert found == rows
    is_new = found_vectors.shape[1] == CLIP.embed_dim
    np.testing.assert_allclose(found_vectors, vectors if is_new else contents(before)[1], atol=1e-3)

    work(path)
    found, found_vectors = contents(path)
    assert found == rows
    np.testing.assert_allclose(found_vectors, vectors, atol=1e-3)
    index = Index.open(path)
    assert index.identity == open_tiny(CLIP).identity
    assert len(index.rank_text(TextQuery.parse("png"), limit=99)) == NUM_IMAGES
    assert not os.path.exists(staging_path(str(path)))
