"""Shares of cases with the interval in which the true share lies, at 95 %. Pure arithmetic."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_Z: Final = 1.959963984540054  # of the normal distribution, 95 % two-sided
_RESAMPLES: Final = 2000
_SEED: Final = 0


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], and the ends of its interval."""

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
    """Return the mean of several groups' shares, with a bootstrap interval.

    Cases are drawn anew within each group, as often as it has cases, 2,000 times; the interval is
    between the percentiles 2.5 and 97.5 of the means. Hits of such a draw are binomial, so no case
    has to be drawn by itself. A group that is all hits, or has none, does not vary: the interval of
    small groups is too narrow rather than too wide.

    Args:
        num_hits: (G,) of each group.
        counts: (G,) its cases, at least one each.

    Raises:
        ValueError: no groups, or one without cases.
    """
    if not len(counts) or counts.min() < 1:
        raise ValueError("a mean of shares needs groups with at least one case each")
    shares = num_hits / counts
    drawn = np.random.default_rng(_SEED).binomial(counts, shares, (_RESAMPLES, len(counts)))
    low, high = np.percentile((drawn / counts).mean(axis=1), [2.5, 97.5])
    return Share(float(shares.mean()), float(low), float(high))
