"""Intervals of shares, beside their definition and beside drawing by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.analysis.intervals import mean_of_shares, wilson


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_of_wilson_are_shares_from_which_the_observed_is_just_likely(
    case: tuple[int, int],
) -> None:
    hits, count = case
    share = wilson(hits, count)
    assert 0 <= share.low <= share.value == hits / count <= share.high <= 1
    for end in (share.low, share.high):
        distance = 1.959964 * np.sqrt(end * (1 - end) / count)
        assert abs(share.value - end) == pytest.approx(distance, abs=1e-6)
    # 81 of 100, in tables: 0.7222 to 0.8749.
    assert (wilson(81, 100).low, wilson(81, 100).high) == pytest.approx((0.7222, 0.8749), abs=1e-4)


def test_the_mean_of_classes_is_drawn_anew_within_each() -> None:
    hits, counts = np.array([3, 40, 5]), np.array([4, 80, 5])
    share = mean_of_shares(hits, counts)
    assert share.value == pytest.approx((0.75 + 0.5 + 1) / 3)
    generator = np.random.default_rng(1)
    cases = [np.arange(count) < hit for hit, count in zip(hits, counts, strict=True)]
    means = [
        np.mean([generator.choice(one, len(one)).mean() for one in cases]) for _ in range(3000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    assert (share.low, share.high) == pytest.approx((low, high), abs=0.03)


def test_there_is_no_share_of_nothing() -> None:
    with pytest.raises(ValueError, match="no cases"):
        wilson(0, 0)
    for counts in ([], [3, 0]):
        with pytest.raises(ValueError, match="at least one case"):
            mean_of_shares(np.zeros(len(counts), np.int64), np.array(counts, np.int64))
