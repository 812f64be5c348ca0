"""Unit length and cosine similarity of NumPy rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def _as_rows(vectors: Any) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if rows.ndim != 2:
        raise ValueError(f"expected rows of vectors, got an array of shape {rows.shape}")
    return rows
