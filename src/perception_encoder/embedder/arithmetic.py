"""Arithmetic on vectors: unit length, shortening, cosine. Pure functions of numpy arrays."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.options import Output
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import torch


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to unit length; a row of zeros stays zeros.

    Args:
        vectors: (B, E) float32.

    Returns:
        (B, E) float32.
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def check_output(embed_dim: int, truncate_dim: int | None, output: Output) -> None:
    """Refuse what `finished` could not do, before any work is done.

    Raises:
        ValueError: there is no such output, or truncate_dim is not between 1 and E.
    """
    if output not in ("numpy", "torch"):
        raise ValueError(f"output must be 'numpy' or 'torch', got {output!r}")
    if truncate_dim is not None and not 1 <= truncate_dim <= embed_dim:
        raise ValueError(f"truncate_dim must be between 1 and {embed_dim}, got {truncate_dim}")


def finished(
    vectors: Embeddings, *, normalize: bool, truncate_dim: int | None, output: Output
) -> "Embeddings | torch.Tensor":
    """Cut, normalize and hand out vectors as the caller asked.

    Args:
        vectors: (B, E) as the model gave them.
        normalize: scale each row to unit length, after cutting.
        truncate_dim: keep this many numbers of each row.
        output: "numpy", or "torch" for a CPU tensor that shares the array's memory.

    """
    vectors = vectors[:, :truncate_dim]
    vectors = np.ascontiguousarray(unit(vectors) if normalize else vectors)
    if output == "numpy":
        return vectors
    from perception_encoder.backends.torch_backend import as_tensor

    return as_tensor(vectors)


def cosine(a: Any, b: Any) -> NDArray[np.float32]:
    """Cosine of every row of `a` with every row of `b`.

    Args:
        a: (Na, E) or (E,) numbers: an array, a tensor on the CPU, or nested lists.
        b: (Nb, E) or (E,), likewise.

    Returns:
        (Na, Nb) float32 in [-1, 1]; 0 where a row is all zeros.

    Raises:
        ValueError: the arrays do not have rows of one length.
    """
    left, right = _rows(a), _rows(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"vectors of {left.shape[1]} and of {right.shape[1]} numbers do not compare"
        )
    return np.asarray(np.clip(unit(left) @ unit(right).T, -1, 1), dtype=np.float32)


def _rows(vectors: Any) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if rows.ndim != 2:
        raise ValueError(f"expected rows of vectors, got an array of shape {rows.shape}")
    return rows
