"""Finds the nearest of many centers for many rows.

Lists grow as the root of the rows, so comparing every row with every center grows as the rows to
the power of 1.5. So many centers are divided into groups, and a row is compared with those of the
nearest groups. Nearly all rows get the list that they would get otherwise.

The products are NumPy's, see `find_nearest_rows`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.kmeans import find_centers
from perception_encoder.types import Embeddings
from perception_encoder.vectors import find_nearest_rows

FEW_CENTERS: Final = 4096
"""All of them are compared: the lists of a million rows."""

_NEAR_GROUPS: Final = 16
_ROUNDS: Final = 8  # of finding groups
_SEED: Final = 1


class CenterSearch:
    """Centers, in groups if there are many.

    Args:
        centers: (L, d) float32.
        few: so many are compared with every row.
    """

    def __init__(self, centers: Embeddings, few: int = FEW_CENTERS) -> None:
        self._heads: Embeddings | None = None
        if len(centers) <= few:
            self._all = centers
            return
        self._heads = find_centers(centers, math.isqrt(len(centers)), rounds=_ROUNDS, seed=_SEED)
        groups = CenterSearch(self._heads).nearest(centers)
        self._members = [np.flatnonzero(groups == place) for place in range(len(self._heads))]
        self._columns = [np.ascontiguousarray(centers[some].T) for some in self._members]

    def nearest(self, rows: Embeddings) -> NDArray[np.int64]:
        """Return the number of the center that is nearest to each of (R, d) rows, (R,).

        With groups a center that is nearly as near may be taken.
        """
        if self._heads is None:
            return find_nearest_rows(rows, self._all, 1)[1][:, 0]
        num_near = min(_NEAR_GROUPS, len(self._heads))
        products = rows @ self._heads.T
        near = np.argpartition(products, -num_near, axis=1)[:, -num_near:].ravel()
        order = np.argsort(near, kind="stable")
        ends = np.searchsorted(near[order], np.arange(len(self._heads)), side="right")
        best = np.full(len(rows), -np.inf, np.float32)
        found = np.zeros(len(rows), np.int64)
        for members, columns, places in zip(
            self._members, self._columns, np.split(order // num_near, ends[:-1]), strict=True
        ):
            if not (len(members) and len(places)):
                continue
            scores = rows[places] @ columns
            chosen = scores.argmax(axis=1)
            highest = scores[np.arange(len(places)), chosen]
            is_better = highest > best[places]
            best[places[is_better]] = highest[is_better]
            found[places[is_better]] = members[chosen[is_better]]
        return found
