"""Joins small groups of unit vectors into fewer, larger ones, two at a time.

A group's sum of vectors is all that has to be known of it: the length of the sum is the sum of its
members' cosines with the group's centre. Each step joins the two groups that lose least of it,
which is Ward's method for cosines. It finds well separated groups where k-means begun at random
often joins two and cuts a third. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.preference import Numbers
from perception_encoder.types import Embeddings


class Merge(NamedTuple):
    """Two groups that became one: `joined` is now part of `kept`, a smaller number."""

    kept: int
    joined: int


def merges(sums: Embeddings) -> Iterator[Merge]:
    """Yield the G - 1 steps that lead from G groups to one.

    Takes about G³ operations and G² · 16 bytes.

    Args:
        sums: (G, E) float32, each group's sum of unit vectors.
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
        yield Merge(kept, joined)


def joined_labels(labels: Numbers, steps: list[Merge]) -> Numbers:
    """Return (R,) int64 labels from 0 on after some steps, of (R,) labels of the first groups."""
    groups = np.arange(labels.max(initial=-1) + 1)
    for step in steps:
        groups[groups == step.joined] = step.kept
    found: Numbers = np.unique(groups[labels], return_inverse=True)[1]
    return found
