"""Folds hits that show the same thing: of near-duplicates only the best hit stands for itself.

Going down a ranking, a hit whose vector is within a cosine of one above that stands for itself, or
whose content is the same, is folded under it. What stands at which place so depends on the better
hits only, never on how many were asked for: pages fit together.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from perception_encoder.index import Hit
from perception_encoder.types import Embeddings

_ROUNDING: Final = 5e-4  # of a cosine, where vectors are stored in float16


def fold(
    hits: Sequence[Hit], vectors: Mapping[str, Embeddings], *, cosine: float, num_groups: int
) -> list[list[Hit]]:
    """Group a ranking.

    Args:
        hits: best first.
        vectors: the (E,) unit vector of each hit's row, by its id.
        cosine: from where on two pictures count as the same.
        num_groups: how many groups to make at most; hits that would begin another are dropped.

    Returns:
        Groups, best first; the first hit of each stands for it.
    """
    floor = cosine - _ROUNDING
    groups: list[list[Hit]] = []
    leaders = np.empty((num_groups, len(next(iter(vectors.values()), ()))), np.float32)
    contents: dict[str, int] = {}
    for hit in hits:
        place = contents.get(hit.sha256) if hit.sha256 is not None else None
        if place is None:
            near = np.flatnonzero(leaders[: len(groups)] @ vectors[hit.id] >= floor)
            place = int(near[0]) if near.size else None
        if place is not None:
            groups[place].append(hit)
        elif len(groups) < num_groups:
            leaders[len(groups)] = vectors[hit.id]
            place = len(groups)
            groups.append([hit])
        if place is not None and hit.sha256 is not None:
            contents.setdefault(hit.sha256, place)
    return groups
