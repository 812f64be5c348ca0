"""How well groups of unit vectors are set apart, and which number of groups sets them apart best.

The silhouette of a picture (Rousseeuw 1987) compares how far it is from its own group with how far
it is from the nearest other one: 1 in a group far from all others, 0 between two, below 0 in the
wrong one, and 0 by definition alone in its group. Distance is 1 - cosine here; the mean distance to
a group then follows from the group's sum, so it is exact and no pair is ever compared.

Where groups run into each other, the mean is nearly the same for many numbers of groups. Then the
smallest of these is taken that is within one standard error of the best, as one does in
cross-validation (Breiman et al. 1984). And what has no groups at all but is longer than it is wide
is best cut in two or three, which tells nobody what is there: where so few are the best and are not
even set apart, no number stands out, and `USUAL` groups are made. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.merging import Merge
from perception_encoder.analysis.preference import Numbers
from perception_encoder.types import Embeddings

MAX_POINTS: Final = 8192
"""Of how many pictures silhouettes are computed, at most."""

USUAL: Final = 25
"""How many groups are made where no number stands out: as many lines as one sees at once."""

APART: Final = 0.25
"""Below this mean silhouette there is no substantial structure (Kaufman and Rousseeuw 1990)."""

_FEW: Final = 4
_ROUNDING: Final = 5e-4
"""What storing vectors as float16 may change a cosine by: copies differ by no less, and to set them
apart says nothing."""


class Choice(NamedTuple):
    """A number of groups, and the mean silhouette of its pictures; 0 for one group."""

    num_groups: int
    silhouette: float


def best_number(vectors: Embeddings, labels: Numbers, steps: Sequence[Merge], most: int) -> Choice:
    """Choose how many groups to make.

    Args:
        vectors: (R, E) float32, unit length.
        labels: (R,) int64, of each its group before the first step, from 0 on.
        steps: what joins these groups until one is left.
        most: the largest number to think of.
    """
    num_groups = len(steps) + 1
    sums = group_sums(vectors, labels, num_groups)
    points = np.arange(0, len(vectors), -(-len(vectors) // MAX_POINTS))
    products = vectors[points] @ sums.T  # (P, G)
    counts = np.bincount(labels, minlength=num_groups).astype(np.float32)
    own = labels[points]
    is_left = np.ones(num_groups, np.bool_)
    choices = [Choice(1, 0.0)]
    errors = [0.0]
    for left, step in zip(range(num_groups, 1, -1), steps, strict=True):
        if left <= most and left < len(vectors):  # each alone says nothing
            columns = np.flatnonzero(is_left)
            found = silhouettes(
                products[:, columns], counts[columns], np.searchsorted(columns, own)
            )
            choices.append(Choice(left, float(found.mean())))
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


def silhouettes(
    products: NDArray[np.float32], counts: NDArray[np.float32], labels: Numbers
) -> NDArray[np.float32]:
    """Return (P,) float32: the silhouettes of P pictures among K groups, K at least 2.

    Args:
        products: (P, K), of each picture's vector with each group's sum.
        counts: (K,), the groups' sizes, at least 1.
        labels: (P,) int64, of each its own group.
    """
    rows = np.arange(len(labels))
    sizes = counts[labels]
    distances = np.maximum(1 - products / counts, 0)
    # The picture itself, at no distance, is among its group; the mean is over the others.
    inside = distances[rows, labels] * sizes / np.maximum(sizes - 1, 1)
    distances[rows, labels] = np.inf
    outside = distances.min(axis=1)
    larger = np.maximum(np.maximum(inside, outside), _ROUNDING)
    return np.where(sizes > 1, (outside - inside) / larger, 0).astype(np.float32)


def group_sums(vectors: Embeddings, labels: Numbers, num_groups: int) -> Embeddings:
    """Return (G, E) float32: the sum of each group's vectors; zeros for one without any."""
    sums = np.zeros((num_groups, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    return sums
