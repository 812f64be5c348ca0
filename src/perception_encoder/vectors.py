"""Unit length, cosine similarity and nearest neighbors of NumPy rows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_PRODUCTS: Final = 1 << 23  # at once: 32 MB


def normalize_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to unit length; a row of zeros stays zeros.

    Args:
        vectors: (B, E) float32.

    Returns:
        (B, E) float32.
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def cosine_similarity(a: Any, b: Any) -> NDArray[np.float32]:
    """Return the cosine of every row of `a` with every row of `b`.

    Args:
        a: (Na, E) or (E,): an array, a CPU tensor, or nested lists.
        b: (Nb, E) or (E,), likewise.

    Returns:
        (Na, Nb) float32 in [-1, 1]; 0 where a row is all zeros.

    Raises:
        ValueError: the rows differ in length, or an array has more than two axes.
    """
    left, right = _as_rows(a), _as_rows(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"cannot compare vectors of {left.shape[1]} and of {right.shape[1]} dimensions"
        )
    cosines = normalize_rows(left) @ normalize_rows(right).T
    return np.asarray(np.clip(cosines, -1, 1), dtype=np.float32)


def find_nearest_rows(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k rows that have the largest product with each query.

    Not by faiss, which brings an older OpenBLAS: on a processor that this does not know, such as
    Sapphire Rapids, products take several times as long.

    Args:
        queries: (Q, E) float32.
        rows: (R, E) float32.
        k: from 1 to R.

    Returns:
        (Q, k) products, the largest first, and (Q, k) numbers of rows; of equal ones the first row.
    """
    scores = np.empty((len(queries), k), np.float32)
    places = np.empty((len(queries), k), np.int64)
    step = max(1, _PRODUCTS // len(rows))
    for start in range(0, len(queries), step):
        here = slice(start, start + step)
        products = queries[here] @ rows.T
        if k == 1:
            best = products.argmax(axis=1)[:, np.newaxis]
        else:
            best = np.sort(np.argpartition(products, -k, axis=1)[:, -k:], axis=1)
            falling = -np.take_along_axis(products, best, axis=1)
            best = np.take_along_axis(best, np.argsort(falling, axis=1, kind="stable"), axis=1)
        places[here] = best
        scores[here] = np.take_along_axis(products, best, axis=1)
    return scores, places


def _as_rows(vectors: Any) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if rows.ndim != 2:
        raise ValueError(f"expected rows of vectors, got an array of shape {rows.shape}")
    return rows
