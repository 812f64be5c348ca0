"""Finds the nearest of many centers for many rows.

Lists grow as the root of the rows, so comparing every row with every center grows as the rows to
the power of 1.5. So many centers are divided into groups, and a row is compared with those of the
nearest groups. Nearly all rows get the list that they would get otherwise.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings

FEW_CENTERS: Final = 4096
"""All of them are compared: the lists of a million rows."""

_NEAR_GROUPS: Final = 16
_ITERATIONS: Final = 8
_SEED: Final = 1


class CenterSearch:
    """Centers, in groups if there are many.

    Args:
        centers: (L, d) float32.
        few: so many are compared with every row.
    """

    def __init__(self, centers: Embeddings, few: int = FEW_CENTERS) -> None:
        import faiss

        num_centers, width = centers.shape
        self._all = faiss.IndexFlatIP(width)
        self._all.add(centers)
        self._heads: Embeddings | None = None
        if num_centers <= few:
            return
        kmeans = faiss.Kmeans(
            width,
            math.isqrt(num_centers),
            niter=_ITERATIONS,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=num_centers,
            seed=_SEED,
        )
        kmeans.train(centers)
        trained: Any = kmeans  # its type stub lacks the results
        self._heads = trained.centroids
        groups = trained.index.search(centers, 1)[1][:, 0]
        self._members = [np.flatnonzero(groups == place) for place in range(len(self._heads))]
        self._columns = [np.ascontiguousarray(centers[some].T) for some in self._members]

    def nearest(self, rows: Embeddings) -> NDArray[np.int64]:
        """Return the number of the center that is nearest to each of (R, d) rows, (R,).

        With groups a center that is nearly as near may be taken.
        """
        if self._heads is None:
            lists: NDArray[np.int64] = self._all.search(rows, 1)[1][:, 0]
            return np.ascontiguousarray(lists)
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
