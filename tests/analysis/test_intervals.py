"""Intervals of shares: what they are by definition, and how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.analysis.evaluation import (
    estimate_difference,
    estimate_mean_share,
    estimate_share,
)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_of_wilson_are_shares_from_which_the_observed_is_just_likely(
    case: tuple[int, int],
) -> None:
    hits, count = case
    share = estimate_share(hits, count)
    assert 0 <= share.low <= share.value == hits / count <= share.high <= 1
    for end in (share.low, share.high):
        distance = 1.959964 * np.sqrt(end * (1 - end) / count)
        assert abs(share.value - end) == pytest.approx(distance, abs=1e-6)
    # 81 of 100, in indexes: 0.7222 to 0.8749.
    assert (estimate_share(81, 100).low, estimate_share(81, 100).high) == pytest.approx(
        (0.7222, 0.8749), abs=1e-4
    )


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ([2, 2], [0.9, 0.9]),
        ([5, 20, 3], [0.95, 0.6, 0.8]),
        ([1] * 100, [0.9] * 100),
        ([50] * 20, [0.75] * 20),
        ([30], [0.97]),
    ],
)
def test_the_interval_of_a_mean_holds_the_true_mean_as_often_as_it_says(
    counts: list[int], shares: list[float]
) -> None:
    cases = np.array(counts)
    trials = np.random.default_rng(0).binomial(cases, shares, (1000, len(counts)))
    found = [estimate_mean_share(hits, cases) for hits in trials]
    assert found[0].value == pytest.approx((trials[0] / cases).mean())
    held = np.mean([one.low <= np.mean(shares) <= one.high for one in found])
    assert held >= 0.93  # of 0.95: a thousand trials are a sample too
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in found)


@pytest.mark.parametrize(
    ("both", "only_first", "only_second", "count"),
    [(0.8, 0.1, 0.05, 60), (0.9, 0.04, 0.04, 40), (0.2, 0.5, 0.1, 20), (0.97, 0.0, 0.03, 100)],
)
def test_the_interval_of_a_difference_holds_the_true_one_as_often_as_it_says(
    both: float, only_first: float, only_second: float, count: int
) -> None:
    shares = [both, only_first, only_second, 1 - both - only_first - only_second]
    trials = np.random.default_rng(0).multinomial(count, np.maximum(shares, 0), 1000)
    found = [estimate_difference(int(one), int(other), count) for _, one, other, _ in trials]
    truth = only_first - only_second
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93
    assert found[0].value == pytest.approx((trials[0][1] - trials[0][2]) / count)
    assert all(-1 <= one.low <= one.value <= one.high <= 1 for one in found)


def test_there_is_no_share_of_nothing() -> None:
    with pytest.raises(ValueError, match="no cases"):
        estimate_share(0, 0)
    with pytest.raises(ValueError, match="no cases"):
        estimate_difference(0, 0, 0)
    for counts in ([], [3, 0]):
        with pytest.raises(ValueError, match="at least one case"):
            estimate_mean_share(np.zeros(len(counts), np.int64), np.array(counts, np.int64))
