"""A few pictures that stand for a cluster: central ones, but not the same picture again and again.

A burst of shots may well be what lies nearest to a centre. Knows nothing of files.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from perception_encoder.analysis.clusters import Clusters
from perception_encoder.analysis.preference import Numbers
from perception_encoder.analysis.ranked_vectors import RankedVectors
from perception_encoder.index import Index
from perception_encoder.types import Embeddings

SAME: Final = 0.95
"""From this cosine on two pictures are taken for the same one, as `pe search --unique` does."""

_CANDIDATES: Final = 8  # looked at for each picture that is wanted


def typical_members(
    index: Index, found: Clusters, count: int, *, where: str | None = None
) -> list[Numbers]:
    """Return, for each cluster, numbers of up to `count` of its pictures, the most central first.

    Pictures that look like one that is there already come only where there are no others among the
    most central. One pass over the table.

    Args:
        index: the table.
        found: its clusters.
        count: how many pictures for each.
        where: the condition that `found` was made with.
    """
    central = [cluster.members[: count * _CANDIDATES] for cluster in found.clusters]
    if not central:
        return []
    wanted = np.sort(np.concatenate(central))
    vectors = RankedVectors(index, found.pictures, where).read(wanted)
    return [
        members[_unlike(vectors[np.searchsorted(wanted, members)], count)] for members in central
    ]


def _unlike(vectors: Embeddings, count: int) -> Numbers:
    """Return up to `count` places, in order, those first that are unlike all before them."""
    is_new = np.ones(len(vectors), np.bool_)
    for place, products in enumerate(vectors @ vectors.T):
        if is_new[place]:
            is_new[place + 1 :] &= products[place + 1 :] < SAME
    chosen = np.concatenate([np.flatnonzero(is_new), np.flatnonzero(~is_new)])[:count]
    return np.sort(chosen)
