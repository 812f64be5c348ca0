"""Exact nearest neighbors: every vector is compared, a block at a time.

Equal vectors get equal scores, and ties are broken by key. So the result depends on the content of
the index, not on the order of its rows. The rounding of a matrix product depends on a row's place
in the block, so the product only finds candidates, which are scored again.
"""

from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings

SLACK: Final = 2e-4
"""Above the error of float32 in the difference of two cosines: 2 · E · 2^-24 (E = 1280)."""

UNIT_TOLERANCE: Final = 1e-2
"""How far from 1 the length of a stored or given vector may be."""

_FEW_QUERIES = 4

Key = TypeVar("Key")


def check_unit_vectors(vectors: Embeddings, embed_dim: int, name: str) -> Embeddings:
    """Return vectors as (N, E) float32 after checking that they have unit length.

    Args:
        vectors: (N, E), any float type.
        embed_dim: the expected E.
        name: their name in errors.

    Raises:
        ValueError: another shape, NaN, or a length that is not 1.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != embed_dim:
        raise ValueError(f"{name}: expected shape (N, {embed_dim}), got {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) < UNIT_TOLERANCE))  # NaN is wrong as well
    if wrong.size:
        place = int(wrong[0])
        raise ValueError(
            f"{name}: number {place} has length {lengths[place]:.4g}, not 1; embed with "
            "normalize=True, or divide by the length"
        )
    return vectors


def product(vectors: Embeddings, query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the products of (R, E) rows and an (E,) query, (R,), computed in this thread.

    The product is limited by memory, so threads gain nothing. The threads of BLAS wait without
    sleeping and take the cores from what comes next: the 95th percentile of queries was 14 ms
    instead of 8 (a million rows, two cores), and 7 times as long on a busy machine.
    """
    return np.einsum("re,e->r", vectors, query)  # type: ignore[no-any-return]


class ScoredBlock(NamedTuple, Generic[Key]):
    """A result: the cosine and the key of the vector."""

    score: float
    key: Key


class ExactSearch(Generic[Key]):
    """Keeps the best k vectors of each query while blocks of vectors are added.

    Args:
        queries: (Q, E) float32, unit length; Q is at least 1.
        k: how many to keep for each query.
        threshold: keep only scores of at least this; None keeps all.
    """

    def __init__(self, queries: Embeddings, k: int, threshold: float | None) -> None:
        self._queries = queries
        self._exact_queries = queries.astype(np.float64)
        self._k = k
        self._threshold = -np.inf if threshold is None else threshold
        self._best: list[list[ScoredBlock[Key]]] = [[] for _ in queries]

    def add(self, vectors: Embeddings, key_of: Callable[[int], Key]) -> None:
        """Add a block of vectors, (R, E) float32.

        Args:
            vectors: unit length.
            key_of: returns the key of a row of the block; called for candidates only. Keys are
                unique and can be ordered.
        """
        proposals = _products(vectors, self._queries)  # (R, Q)
        for query in range(len(self._queries)):
            promising = self._promising(query, proposals[:, query])
            if promising.size == 0:
                continue
            products = vectors[promising] * self._exact_queries[query]  # float64
            scores = np.clip(products.sum(axis=1), -1.0, 1.0)
            best = self._best[query] + [
                ScoredBlock(float(score), key_of(int(row)))
                for row, score in zip(promising, scores, strict=True)
                if score >= self._threshold
            ]
            best.sort(key=lambda scored: (-scored.score, scored.key))
            self._best[query] = best[: self._k]

    def results(self) -> list[list[ScoredBlock[Key]]]:
        """Return at most k results for each query, best first."""
        return self._best

    def _promising(self, query: int, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the rows that may belong to the best k, and a few more."""
        floor = self._threshold
        best = self._best[query]
        if len(best) == self._k:
            floor = max(floor, best[-1].score)
        if len(scores) > self._k:
            floor = max(floor, float(np.partition(scores, -self._k)[-self._k]))
        return np.flatnonzero(scores >= floor - SLACK)


def _products(vectors: Embeddings, queries: Embeddings) -> Embeddings:
    """(R, E) and (Q, E) to (R, Q)."""
    if len(queries) > _FEW_QUERIES:
        return vectors @ queries.T
    return np.stack([product(vectors, query) for query in queries], axis=1)
