"""Pairs of near embeddings among more images than are compared one by one."""

import numpy as np
import pytest
from analysis.duplicate_samples import index_of, remote_rows, unit

from perception_encoder.analysis import near_cells
from perception_encoder.analysis.near_pairs import NearPairs, find_near_pairs
from perception_encoder.analysis.ranked_images import rank_images
from perception_encoder.types import Embeddings

MAX_EXACT = 500


def clustered(num_images: int, embed_dim: int, seed: int) -> Embeddings:
    """Vectors about forty directions, some of which have copies of a cosine of about 0.99."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(40, embed_dim))
    vectors = unit(directions[random.integers(40, size=num_images)] + random.normal(size=embed_dim))
    vectors = unit(vectors + 0.6 * unit(random.normal(size=vectors.shape)))
    copied = random.choice(num_images, num_images // 10, replace=False)
    sources, copies = copied[::2], copied[1::2]
    noise = unit(random.normal(size=(len(copies), embed_dim)))
    vectors[copies] = unit(vectors[sources[: len(copies)]] + 0.14 * noise)
    return vectors


def pairs_of(
    tmp_path, vectors: Embeddings, threshold: float, max_exact: int = MAX_EXACT
) -> NearPairs:
    index = index_of(tmp_path / "index.lance", remote_rows(len(vectors)), vectors)
    images = rank_images(index, "first", None)
    return find_near_pairs(
        index,
        images,
        np.arange(len(images)),
        threshold=threshold,
        where=None,
        max_exact=max_exact,
    )


def as_set(pairs: NearPairs) -> set[tuple[int, int]]:
    return set(zip(pairs.earlier.tolist(), pairs.later.tolist(), strict=True))


@pytest.mark.parametrize(
    ("num_images", "embed_dim", "threshold"), [(5000, 96, 0.98), (3001, 40, 0.9), (501, 300, 0.98)]
)
def test_cells_find_the_pairs_that_comparing_all_finds(
    tmp_path, num_images: int, embed_dim: int, threshold: float
) -> None:
    vectors = clustered(num_images, embed_dim, seed=num_images)
    found = pairs_of(tmp_path, vectors, threshold)
    products = np.tril(vectors @ vectors.T, -1)
    true = set(map(tuple, np.argwhere(products >= threshold)[:, ::-1].tolist()))
    assert len(true) >= num_images // 25
    assert as_set(found) <= set(
        map(tuple, np.argwhere(products >= threshold - 1e-5)[:, ::-1].tolist())
    )
    assert len(true & as_set(found)) >= 0.995 * len(true)
    scores = products[found.later, found.earlier]
    assert found.scores == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("max_cell", [64, 4096])
def test_many_cells_in_regions_find_the_pairs_that_comparing_all_finds(
    tmp_path, max_cell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from 65,536 images on, and with cells that are divided again."""
    monkeypatch.setattr(near_cells, "_CELL_SIZE", 16)
    monkeypatch.setattr(near_cells, "_MAX_CELL", max_cell)
    monkeypatch.setattr(near_cells, "_FEW_CENTERS", 8)
    monkeypatch.setattr(near_cells, "_CENTERS_IN_REGION", 8)
    vectors = clustered(4000, 96, seed=3)
    true = set(map(tuple, np.argwhere(np.triu(vectors @ vectors.T, 1) >= 0.98).tolist()))
    assert len(true) >= 150
    found = as_set(pairs_of(tmp_path, vectors, 0.98))
    assert len(true & found) >= 0.99 * len(true)


def test_images_that_are_all_the_same_end_and_are_crowded(tmp_path) -> None:
    same = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 48))), 2100, axis=0)
    found = pairs_of(tmp_path, same, 0.98)
    assert found.is_crowded.all()
    assert len(np.unique(found.later)) >= 2100 - -(-2100 // MAX_EXACT)  # the others have a partner
    assert found.scores.min() == pytest.approx(1, abs=1e-3)


def test_images_without_a_near_one_have_no_pairs(tmp_path) -> None:
    found = pairs_of(tmp_path, unit(np.random.default_rng(1).normal(size=(2500, 64))), 0.98)
    assert not len(found.scores)
    assert not found.may_be_equal.any()
    assert not found.is_crowded.any()


def test_few_images_are_all_compared(tmp_path) -> None:
    vectors = clustered(400, 64, seed=2)
    assert as_set(pairs_of(tmp_path / "cells", vectors, 0.98, 50)) == as_set(
        pairs_of(tmp_path / "all", vectors, 0.98, 400)
    )
