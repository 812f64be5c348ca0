"""Shares of cases with the interval in which the true share lies, at 95 %. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings

_Z: Final = 1.959963984540054  # of the normal distribution, 95 % two-sided
_TIE: Final = 1e-6
"""Cosines in float32 that are nearer than this are equal, as rounding differs by as much."""

_BLOCK_BYTES: Final = 64 << 20  # of scores in memory


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], or the difference of two, and the ends of its interval."""

    value: float
    low: float
    high: float


def wilson(num_hits: int, count: int) -> Share:
    """Return a share of independent cases with Wilson's score interval.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    Unlike the textbook's, it is of use near 0 and 1 and with few cases.

    Raises:
        ValueError: no cases.
    """
    if count < 1:
        raise ValueError("a share of no cases is not defined")
    share = num_hits / count
    square = _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    reach = _Z * ((share * (1 - share) + square / 4) / count) ** 0.5 / (1 + square)
    # At the ends rounding could put the share itself outside.
    return Share(share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)))


def mean_of_shares(num_hits: NDArray[np.int64], counts: NDArray[np.int64]) -> Share:
    """Return the mean of several groups' shares, with a normal interval.

    Each group adds the variance of its share to that of the mean, computed with two hits and two
    misses more than there were: A. Agresti and B. A. Coull, "Approximate is better than exact for
    interval estimation of binomial proportions" (1998). Without these a group that is all hits
    would seem to be known for sure, as it does to a bootstrap: of two groups of two cases that are
    hits in nine of ten, its intervals hold the true mean in 4 of 10 trials, these in 99 of 100.

    Args:
        num_hits: (G,) of each group.
        counts: (G,) its cases, at least one each.

    Raises:
        ValueError: no groups, or one without cases.
    """
    if not len(counts) or counts.min() < 1:
        raise ValueError("a mean of shares needs groups with at least one case each")
    mean = float((num_hits / counts).mean())
    cautious = (num_hits + 2) / (counts + 4)
    variance = float((cautious * (1 - cautious) / counts).sum()) / len(counts) ** 2
    reach = _Z * variance**0.5
    return Share(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def paired_difference(num_only_first: int, num_only_second: int, count: int) -> Share:
    """Return by how much the first of two shares of the same cases is larger.

    Only cases that are hits of one and not of the other tell them apart, so this says more than two
    intervals side by side. The interval is that of A. Agresti and Y. Min, "Simple improved
    confidence intervals for comparing matched proportions" (2005).

    Args:
        num_only_first: cases that are hits of the first only.
        num_only_second: of the second only.
        count: all cases.

    Raises:
        ValueError: no cases.
    """
    if count < 1:
        raise ValueError("a share of no cases is not defined")
    size = count + 2
    middle = (num_only_first - num_only_second) / size
    apart = num_only_first + num_only_second + 1
    reach = _Z * (apart - (num_only_first - num_only_second) ** 2 / size) ** 0.5 / size
    value = (num_only_first - num_only_second) / count
    return Share(value, max(-1.0, min(value, middle - reach)), min(1.0, max(value, middle + reach)))


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
