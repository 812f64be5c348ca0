"""Measures the recall of approximate search: queries, and their exact results.

Two kinds of queries are used, as people search with images and with text. One kind are rows, which
must find their neighbors but not themselves. The other are sums of two rows without the mean of all
rows: like text embeddings they are far from every row and between several. The worse of the two
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings

NUM_QUERIES: Final = 128  # of each kind
TARGET: Final = 0.965
"""The recall that is tuned for. 0.95 is documented; the error with 128 queries is 0.006."""


class RecallSample:
    """Queries, and their exact results once blocks of all rows were added.

    Args:
        sample: (S, E) float16: some rows.
        numbers: (S,) int64, which identify them.
        mean: (E,) of all rows.
        depth: how many of the best rows of each query are needed.
    """

    def __init__(
        self,
        sample: NDArray[np.float16],
        numbers: NDArray[np.int64],
        mean: NDArray[np.float32],
        depth: int,
    ) -> None:
        chosen = np.random.default_rng(0).choice(len(sample), (3, NUM_QUERIES))
        first, second, third = sample[chosen].astype(np.float32)
        sums = second + third - 2 * mean
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        self.queries: Final = np.concatenate([first, sums / np.maximum(lengths, 1e-6)])
        self.itself: Final = np.concatenate([numbers[chosen[0]], np.full(NUM_QUERIES, -1)])
        """(Q,) int64: the row that a query is, or -1."""
        self._best = _BestRows(self.queries, depth + 1)

    def add(self, vectors: Embeddings, numbers: NDArray[np.int64]) -> None:
        """Add a block of rows, (R, E) float32, with their numbers, (R,)."""
        self._best.add(vectors, numbers)

    def truth(self) -> list[NDArray[np.int64]]:
        """Return the best rows of each query, best first, without the query itself."""
        pairs = zip(self._best.result(), self.itself, strict=True)
        return [found[found != itself] for found, itself in pairs]


class _BestRows:
    """Keeps the best k rows of many queries, where k may be a thousand.

    Rows that may be among them are collected, and sorted when there are many.
    """

    def __init__(self, queries: Embeddings, k: int) -> None:
        self._queries = np.ascontiguousarray(queries.T)
        self._k = k
        self._floors = np.full(len(queries), -np.inf, np.float32)
        self._scores = [np.empty(0, np.float32) for _ in queries]
        self._rows = [np.empty(0, np.int64) for _ in queries]
        self._waiting: list[tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.int64]]] = []
        self._num_waiting = 0

    def add(self, vectors: Embeddings, numbers: NDArray[np.int64]) -> None:
        products = vectors @ self._queries
        places, queries = np.nonzero(products > self._floors)
        self._waiting.append((queries, products[places, queries], numbers[places]))
        self._num_waiting += len(queries)
        if self._num_waiting > 2 * self._k * len(self._floors):
            self._sort()

    def result(self) -> list[NDArray[np.int64]]:
        """Return the best rows of each query, best first."""
        self._sort()
        return self._rows

    def _sort(self) -> None:
        none = (np.empty(0, np.intp), np.empty(0, np.float32), np.empty(0, np.int64))
        queries, scores, rows = (
            np.concatenate(parts) for parts in zip(none, *self._waiting, strict=True)
        )
        self._waiting.clear()
        self._num_waiting = 0
        order = np.argsort(queries, kind="stable")
        ends = np.searchsorted(queries[order], np.arange(1, len(self._floors)))
        for query, part in enumerate(np.split(order, ends)):
            found = np.concatenate([self._scores[query], scores[part]])
            best = np.argsort(-found, kind="stable")[: self._k]
            self._rows[query] = np.concatenate([self._rows[query], rows[part]])[best]
            self._scores[query] = found[best]
            if len(best) == self._k:
                self._floors[query] = found[best[-1]]


def split_kinds(values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the values of the two kinds of queries."""
    return values[:NUM_QUERIES], values[NUM_QUERIES:]
