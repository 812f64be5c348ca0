"""Spherical k-means: initial centers come from agglomerative clustering of many small groups.

The number of groups is chosen by the mean silhouette. Equal vectors in equal order give equal
centers. scikit-learn is not used: for 10,000 vectors of E = 512, its KMeans and a single silhouette
take twice as long as everything here, and it would be a dependency of every install.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.ranked_images import Numbers
from perception_encoder.kmeans import find_centers
from perception_encoder.types import Embeddings
from perception_encoder.vectors import find_nearest_rows, normalize_rows

MAX_CHOSEN: Final = 100
"""The largest number of groups that is chosen. For R vectors it is also at most √R."""

USUAL: Final = 25
"""The number of groups where no number stands out: a list that fits a screen."""

APART: Final = 0.25
"""Below this mean silhouette there is no substantial structure (Kaufman and Rousseeuw 1990)."""

MAX_POINTS: Final = 8192
"""Silhouettes are computed for at most this many vectors."""

_FEW: Final = 4
_ROUNDING: Final = 5e-4  # float16 changes a cosine by up to this
_SMALL_GROUPS: Final = 256
_MAX_JOINED: Final = 1024  # small groups; merging them takes time cubic in their number
_ROUNDS: Final = 20
_SEED: Final = 0


class ClusterMerge(NamedTuple):
    """A step that merges the group `joined` into the group `kept`, which has the smaller number."""

    kept: int
    joined: int


def iter_merges(sums: Embeddings) -> Iterator[ClusterMerge]:
    """Yield the G - 1 steps that merge G groups into one, the closest two groups first.

    This takes about G³ operations and G² · 16 bytes.

    Args:
        sums: (G, E) float32, the sum of the unit vectors of each group.
    """
    num_groups = len(sums)
    wide = sums.astype(np.float64)
    products = wide @ wide.T  # (G, G)
    is_left = np.ones(num_groups, np.bool_)

    def losses_of(group: int) -> NDArray[np.float64]:
        squares = products.diagonal()
        together = squares[group] + squares + 2 * products[group]
        lengths = np.sqrt(np.maximum(squares, 0))
        lost: NDArray[np.float64] = lengths[group] + lengths - np.sqrt(np.maximum(together, 0))
        lost[~is_left] = np.inf
        lost[group] = np.inf
        return lost

    losses = np.stack([losses_of(group) for group in range(num_groups)])
    for _ in range(num_groups - 1):
        first, second = divmod(int(losses.argmin()), num_groups)
        kept, joined = min(first, second), max(first, second)
        products[kept] += products[joined]
        products[:, kept] += products[:, joined]
        is_left[joined] = False
        losses[joined] = losses[:, joined] = np.inf
        losses[kept] = losses[:, kept] = losses_of(kept)
        yield ClusterMerge(kept, joined)


def merge_labels(labels: Numbers, steps: list[ClusterMerge]) -> Numbers:
    """Return (R,) int64: the labels of R vectors after some steps, renumbered from 0."""
    groups = np.arange(labels.max(initial=-1) + 1)
    for step in steps:
        groups[groups == step.joined] = step.kept
    found: Numbers = np.unique(groups[labels], return_inverse=True)[1]
    return found


class ClusterCount(NamedTuple):
    """A number of groups and its mean silhouette, which is 0 for one group."""

    num_groups: int
    silhouette: float


def choose_cluster_count(
    vectors: Embeddings, labels: Numbers, steps: Sequence[ClusterMerge], most: int
) -> ClusterCount:
    """Choose the number of groups: the smallest within one standard error of the best silhouette.

    Where that is a few groups without structure, it is the usual number instead.

    Args:
        vectors: (R, E) float32, unit length.
        labels: (R,) int64, their groups before the first step, from 0 on.
        steps: the steps that merge these groups into one.
        most: the largest number that may be chosen.
    """
    num_groups = len(steps) + 1
    sums = sum_groups(vectors, labels, num_groups)
    points = np.arange(0, len(vectors), -(-len(vectors) // MAX_POINTS))
    products = vectors[points] @ sums.T  # (P, G)
    counts = np.bincount(labels, minlength=num_groups).astype(np.float32)
    own = labels[points]
    is_left = np.ones(num_groups, np.bool_)
    choices = [ClusterCount(1, 0.0)]
    errors = [0.0]
    for left, step in zip(range(num_groups, 1, -1), steps, strict=True):
        if left <= most and left < len(vectors):  # groups of one vector have no silhouette
            columns = np.flatnonzero(is_left)
            found = compute_silhouettes(
                products[:, columns], counts[columns], np.searchsorted(columns, own)
            )
            choices.append(ClusterCount(left, float(found.mean())))
            errors.append(float(found.std() / np.sqrt(len(found))))
        products[:, step.kept] += products[:, step.joined]
        counts[step.kept] += counts[step.joined]
        own[own == step.joined] = step.kept
        is_left[step.joined] = False
    best = max(range(len(choices)), key=lambda place: choices[place].silhouette)
    floor = choices[best].silhouette - errors[best]
    chosen = min(choice for choice in choices if choice.silhouette >= floor)
    is_alike = np.linalg.norm(sums.sum(axis=0)) >= (1 - _ROUNDING) * len(vectors)
    if chosen.num_groups <= _FEW and chosen.silhouette < APART and not is_alike:
        return max(choice for choice in choices if choice.num_groups <= USUAL)
    return chosen


def compute_silhouettes(
    products: NDArray[np.float32], counts: NDArray[np.float32], labels: Numbers
) -> NDArray[np.float32]:
    """Return (P,) float32: the silhouettes of P vectors among K groups, K at least 2.

    Args:
        products: (P, K) products of the vectors with the sums of the groups.
        counts: (K,) sizes of the groups, at least 1.
        labels: (P,) int64, the group of each vector.
    """
    rows = np.arange(len(labels))
    sizes = counts[labels]
    distances = np.maximum(1 - products / counts, 0)
    # A group's sum includes the vector itself; the mean distance is to the others.
    inside = distances[rows, labels] * sizes / np.maximum(sizes - 1, 1)
    distances[rows, labels] = np.inf
    outside = distances.min(axis=1)
    larger = np.maximum(np.maximum(inside, outside), _ROUNDING)
    return np.where(sizes > 1, (outside - inside) / larger, 0).astype(np.float32)


def sum_groups(vectors: Embeddings, labels: Numbers, num_groups: int) -> Embeddings:
    """Return (G, E) float32: the sum of each group's vectors; zeros for an empty group."""
    sums = np.zeros((num_groups, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    return sums


@dataclass(frozen=True)
class ClusterCenters:
    """Centers of clusters.

    Attributes:
        vectors: (K, E) float32, unit length.
        silhouette: the mean silhouette, if K was chosen by it; else None.
    """

    vectors: Embeddings
    silhouette: float | None


def find_cluster_centers(vectors: Embeddings, num_groups: int | None) -> ClusterCenters:
    """Divide vectors into groups.

    Args:
        vectors: (R, E) float32, unit length, R at least 1.
        num_groups: the number of groups; None chooses it, see `choose_cluster_count`.
    """
    wanted = MAX_CHOSEN if num_groups is None else min(num_groups, len(vectors))
    num_small = max(_SMALL_GROUPS, 2 * wanted)
    if num_small > _MAX_JOINED:
        return ClusterCenters(_train(vectors, wanted), None)
    labels = _find_small_groups(vectors, num_small)
    num_small = int(labels.max()) + 1
    steps = list(iter_merges(sum_groups(vectors, labels, num_small)))
    silhouette = None
    if num_groups is None:
        most = min(MAX_CHOSEN, math.ceil(math.sqrt(len(vectors))))
        wanted, silhouette = choose_cluster_count(vectors, labels, steps, most)
    labels = merge_labels(labels, steps[: max(0, num_small - wanted)])
    sums = sum_groups(vectors, labels, int(labels.max()) + 1)
    return ClusterCenters(_train(vectors, len(sums), normalize_rows(sums)), silhouette)


def find_nearest_center(
    vectors: Embeddings, centers: Embeddings
) -> tuple[Numbers, NDArray[np.float32]]:
    """Return (R,) int64, the nearest center of each vector, and (R,) float32, their cosines."""
    scores, labels = find_nearest_rows(vectors, centers, 1)
    return labels[:, 0], np.clip(scores[:, 0], -1, 1)


def _find_small_groups(vectors: Embeddings, most: int) -> Numbers:
    """Return (R,) int64: the labels of small groups, from 0 on, none of which is empty."""
    if len(vectors) <= most:
        return np.arange(len(vectors))
    labels, _ = find_nearest_center(vectors, _train(vectors, most))
    found: Numbers = np.unique(labels, return_inverse=True)[1]
    return found


def _train(vectors: Embeddings, number: int, initial: Embeddings | None = None) -> Embeddings:
    return find_centers(vectors, number, rounds=_ROUNDS, seed=_SEED, initial=initial)
