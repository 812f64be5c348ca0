"""At which place a ranking by score has what is right. Pure arithmetic, in blocks.

A tie counts against the model: what scores as high as the right one is taken to come before it. So
nothing is gained by giving everything the same vector.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings

_TIE: Final = 1e-6
"""Cosines in float32 that are nearer than this are equal, as rounding differs by as much."""

_BLOCK_BYTES: Final = 64 << 20  # of scores in memory


def ranks_in(
    scores: NDArray[np.float32], right: Sequence[Sequence[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the best of the right ones in each row.

    Args:
        scores: (N, L); they are overwritten.
        right: for each row the columns that are right, at least one.

    Returns:
        (N,): how many wrong ones score as high as the best right one or higher, so 0 is a hit at
        the first place. (N,): the column of the best wrong one.
    """
    counts = [len(columns) for columns in right]
    rows = np.repeat(np.arange(len(scores)), counts)
    columns = np.fromiter(chain.from_iterable(right), np.int64)
    starts = np.cumsum([0, *counts])[:-1]
    best = np.maximum.reduceat(scores[rows, columns], starts)
    scores[rows, columns] = -np.inf
    return (scores >= best[:, None] - _TIE).sum(axis=1), scores.argmax(axis=1)


def ranks_among(
    queries: Embeddings, candidates: Embeddings, right: Sequence[Sequence[int]]
) -> NDArray[np.int64]:
    """Rank all candidates for each query by cosine, and find the best of the right ones.

    Never more than 64 MB of cosines are in memory, or one row of them.

    Args:
        queries: (Q, E) float32 of unit length.
        candidates: (C, E) float32 of unit length.
        right: for each query the candidates that are right, at least one.

    Returns:
        (Q,): how many wrong ones come before it.
    """
    ranks = np.empty(len(queries), np.int64)
    step = max(1, _BLOCK_BYTES // (4 * len(candidates)))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        ranks[block], _ = ranks_in(queries[block] @ candidates.T, right[block])
    return ranks
