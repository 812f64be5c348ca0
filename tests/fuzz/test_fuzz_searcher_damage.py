"""Whatever bytes of a searcher's files change: no hit is wrong, and none is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index.searcher.searcher_indexes import LISTS, build, clustered, make_index, told

from perception_encoder.index import Index

NUM_ROWS, EMBED_DIM = 6000, 32
FEWER = max(10, settings.default.max_examples // 2)
QUERIES = clustered(20, EMBED_DIM, seed=1)

Hits = list[list[tuple[str, float]]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("searcher") / "whole"
    index = make_index(path, clustered(NUM_ROWS, EMBED_DIM))
    index.delete([row.id for row in index.rows(where="width % 7 = 0")])
    assert build(index, LISTS).searcher == "approximate"
    return path


def search(path: Path, *, exact: bool) -> Hits:
    return [told(hits) for hits in Index.open(path).search(QUERIES, k=10, exact=exact)]


@pytest.fixture(scope="module")
def truth(whole: Path) -> Hits:
    return search(whole, exact=True)


@pytest.fixture(scope="module")
def near_truth(whole: Path) -> Hits:
    """What approximate search finds with the files as they were written."""
    return search(whole, exact=False)


@settings(max_examples=FEWER)
@given(
    pick=st.integers(0, 99),
    place=st.floats(0, 1, exclude_max=True),
    how=st.sampled_from(["flip", "zero page", "copied page", "cut", "noise"]),
    change=st.integers(1, 255),
    exact=st.booleans(),
)
def test_damage_is_noticed_before_it_has_a_part_in_an_answer(
    whole: Path,
    truth: Hits,
    near_truth: Hits,
    pick: int,
    place: float,
    how: str,
    change: int,
    exact: bool,
) -> None:
    copy = whole.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    files = sorted((copy / "_pe" / "searcher").iterdir())
    chosen = files[pick % len(files)]
    data = np.fromfile(chosen, np.uint8)
    start = int(place * len(data))
    if how == "flip":
        data[start] ^= change
    elif how == "cut":
        data = data[:start]
    elif how == "noise":
        data[start : start + 50] = np.random.default_rng(change).integers(0, 256, 50)[
            : len(data) - start
        ]
    else:
        page = slice(start // 4096 * 4096, start // 4096 * 4096 + 4096)
        data[page] = 0 if how == "zero page" else data[: len(data[page])]
    data.tofile(chosen)
    assert search(copy, exact=exact) in ([truth] if exact else [truth, near_truth])
