"""K-means of NumPy rows: for the lists of search, for clusters, and for cells of near-duplicates.

Not faiss's, which brings an older OpenBLAS, see `find_nearest_rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings
from perception_encoder.vectors import find_nearest_rows, normalize_rows

FindNearest: TypeAlias = Callable[[Embeddings, Embeddings], NDArray[np.int64]]
"""Returns the number of the center, (num_centers, d), of each of (P, d) points, as (P,)."""


def find_centers(
    points: Embeddings,
    num_centers: int,
    *,
    rounds: int,
    seed: int = 0,
    initial: Embeddings | None = None,
    find_nearest: FindNearest | None = None,
) -> Embeddings:
    """Find directions that points gather around, by spherical k-means.

    Args:
        points: (P, d) float32, at least as many as centers.
        num_centers: number of centers.
        rounds: how often centers move at most; they stop where no point changes its center.
        seed: of the random generator.
        initial: (num_centers, d) float32, unit length; None begins with random points.
        find_nearest: finds the centers with the largest products; None compares all.

    Returns:
        (num_centers, d) float32, unit length.
    """
    nearest = find_nearest or (lambda rows, centers: find_nearest_rows(rows, centers, 1)[1][:, 0])
    return _train(points, num_centers, rounds, seed, initial, nearest, normalize_rows)


def find_means(points: Embeddings, num_centers: int, *, rounds: int, seed: int) -> Embeddings:
    """Find centers with the least squared distances from points; arguments as `find_centers`."""
    return _train(points, num_centers, rounds, seed, None, _find_least_distant, lambda means: means)


def _find_least_distant(rows: Embeddings, centers: Embeddings) -> NDArray[np.int64]:
    half = (centers**2).sum(axis=1, keepdims=True) / 2
    wide = np.hstack([rows, np.ones((len(rows), 1), np.float32)])
    return find_nearest_rows(wide, np.hstack([centers, -half]), 1)[1][:, 0]


def _train(
    points: Embeddings,
    num_centers: int,
    rounds: int,
    seed: int,
    initial: Embeddings | None,
    find_nearest: FindNearest,
    finish: Callable[[Embeddings], Embeddings],
) -> Embeddings:
    random = np.random.default_rng(seed)
    centers = _choose(points, num_centers, random) if initial is None else initial
    centers, before = finish(centers), np.empty(0, np.int64)
    for _ in range(rounds):
        nearest = find_nearest(points, centers)
        if np.array_equal(nearest, before):
            break
        order = np.argsort(nearest, kind="stable")
        used, starts = np.unique(nearest[order], return_index=True)
        sizes = np.diff(starts, append=len(points))[:, np.newaxis]
        centers = _choose(points, num_centers, random)  # where no point is near
        centers[used] = np.add.reduceat(points[order], starts) / sizes
        centers, before = finish(centers), nearest
    return centers


def _choose(points: Embeddings, count: int, random: np.random.Generator) -> Embeddings:
    return points[random.choice(len(points), count, replace=False)]
