"""Exact nearest neighbors by looking at every vector, a block at a time. Knows nothing of indexes.

Two vectors that are equal get equal scores, wherever they lie, and ties are broken by key: the
answer depends on what is in the index, not on the order in which it came there. A matrix product
alone does not give that (its rounding depends on a row's place in the block), so it only proposes,
and the few that matter are scored again.
"""

from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings

SLACK: Final = 2e-4
"""More than float32 can be wrong about the difference of two cosines: 2 · E · 2^-24 (E = 1280)."""

UNIT_TOLERANCE: Final = 1e-2
"""How far from 1 the length of a stored or given vector may be."""

_FEW_QUERIES = 4

Key = TypeVar("Key")


def check_unit_vectors(vectors: Embeddings, embed_dim: int, name: str) -> Embeddings:
    """Return the vectors as (N, E) float32 after checking that they are of unit length.

    Args:
        vectors: (N, E), any float type.
        embed_dim: the E they must have.
        name: names them in errors.

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
    """(R, E) and (E,) to (R,) in this thread.

    Such a product waits for memory, not for arithmetic: threads gain nothing. Those of BLAS wait
    for more work without sleeping, and so take the cores from whatever comes next: 95 % of queries
    took 14 ms rather than 8 (a million rows, two cores), and 7 times as long on a busy machine.
    """
    return np.einsum("re,e->r", vectors, query)  # type: ignore[no-any-return]


class ScoredBlock(NamedTuple, Generic[Key]):
    """A result: the cosine, and the key of the vector it belongs to."""

    score: float
    key: Key


class ExactSearch(Generic[Key]):
    """Keeps the best k of every query while blocks of vectors go by.

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

    def look_at(self, vectors: Embeddings, key_of: Callable[[int], Key]) -> None:
        """Let one block of vectors, (R, E) float32, compete.

        Args:
            vectors: unit length.
            key_of: the key of the block's vector of that number; asked for the promising ones
                only. Keys can be ordered and differ from each other.
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
        """Return, for each query, at most k results, best first."""
        return self._best

    def _promising(self, query: int, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the rows that may belong to the best k, a few too many rather than one too few."""
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
