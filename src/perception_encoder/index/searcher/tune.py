"""Measures how many lists a query must look into, with queries made from the index itself.

Two sorts of query are made, because people search with images and with words. The first are rows,
which must find their neighbors but not themselves. The second are sums of two rows without what
all rows share: like vectors of words they lie apart from every row and point between several. The
worse of the two counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.searcher.files import Tuning
from perception_encoder.index.searcher.fragments import RowPositions
from perception_encoder.index.searcher.lists import CoarseSearch
from perception_encoder.index.searcher.train import HalfFloats
from perception_encoder.types import Embeddings

RESULT_COUNTS: Final = (10, 100)
NUM_QUERIES: Final = 128  # of each sort
_TARGET: Final = 0.965  # 0.95 is promised; of 128 queries the error is 0.006
_STEP: Final = 1.25
_WORTHWHILE: Final = 0.25  # of the lists; looking into more is no faster than looking at all

LookInto: TypeAlias = Callable[[Embeddings, int, int], list[RowPositions]]
"""Queries, k and probes to the numbers found, best first."""


class ListTuning:
    """Queries, and the true answers as blocks of rows go by.

    Args:
        sample: (S, E) float16: some rows.
        numbers: (S,) their numbers.
        mean: (E,) of all rows.
    """

    def __init__(
        self, sample: HalfFloats, numbers: RowPositions, mean: NDArray[np.float32]
    ) -> None:
        import faiss

        chosen = np.random.default_rng(0).choice(len(sample), (3, NUM_QUERIES))
        first, second, third = sample[chosen].astype(np.float32)
        sums = second + third - 2 * mean
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        self.queries: Final = np.concatenate([first, sums / np.maximum(lengths, 1e-6)])
        self._itself = np.concatenate([numbers[chosen[0]], np.full(NUM_QUERIES, -1)])
        self._best = faiss.ResultHeap(len(self.queries), max(RESULT_COUNTS) + 1, keep_max=True)
        self._truth: NDArray[np.int64] | None = None

    def add(self, vectors: Embeddings, numbers: RowPositions) -> None:
        """Let a block of rows compete: (R, E) float32, and (R,) their numbers."""
        import faiss

        k = min(max(RESULT_COUNTS) + 1, len(vectors))
        scores, places = faiss.knn(self.queries, vectors, k, faiss.METRIC_INNER_PRODUCT)
        self._best.add_result(scores, numbers[places])

    def tune(
        self, coarse: CoarseSearch, list_of: NDArray[np.int32], look_into: LookInto
    ) -> tuple[Tuning, ...]:
        """Return how many lists are enough, for each of `RESULT_COUNTS` where that saves time.

        Args:
            coarse: chooses lists.
            list_of: (R,) the list of every row.
            look_into: searches the lists.
        """
        self._best.finalize()
        pairs = zip(self._best.I, self._itself, strict=True)
        truth = [found[(found != itself) & (found >= 0)] for found, itself in pairs]
        if min(map(len, truth)) < max(RESULT_COUNTS):
            return ()  # so few rows that nothing can be told
        most = int(_WORTHWHILE * len(coarse.centers))
        tunings = []
        for k in RESULT_COUNTS:
            best = [rows[:k] for rows in truth]
            probes = self._lower_bound(coarse, list_of, best)
            while probes <= most and (recall := self._recall(best, k, probes, look_into)) < _TARGET:
                probes = int(probes * _STEP) + 1
            if probes > most:
                break
            tunings.append(Tuning(k, probes, recall))
        return tuple(tunings)

    def _lower_bound(
        self, coarse: CoarseSearch, list_of: NDArray[np.int32], best: list[RowPositions]
    ) -> int:
        """Return how many lists hold enough of the true rows, if codes were no loss."""
        shares = []
        for query, rows in zip(self.queries, best, strict=True):
            order = coarse.nearest(query, len(coarse.centers))
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            shares.append(np.bincount(rank[list_of[rows]], minlength=len(order)) / len(rows))
        curves = [np.mean(part, axis=0).cumsum() for part in _halves(shares)]
        return 1 + int(np.argmax(np.minimum(*curves) >= _TARGET))

    def _recall(self, best: list[RowPositions], k: int, probes: int, look_into: LookInto) -> float:
        """Return the recall of the worse sort of query."""
        found = look_into(self.queries, k + 1, probes)
        shares = [
            np.isin(rows, numbers[numbers != itself][:k]).mean()
            for rows, numbers, itself in zip(best, found, self._itself, strict=True)
        ]
        return float(min(np.mean(part) for part in _halves(shares)))


def _halves(values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the values of the two sorts of query."""
    return values[:NUM_QUERIES], values[NUM_QUERIES:]
