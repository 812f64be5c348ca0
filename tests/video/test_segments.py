"""Shots found in synthetic sequences of embeddings."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception_encoder.vectors import normalize_rows
from perception_encoder.video import VideoSegment, find_segments
from perception_encoder.video.sampling import find_cuts
from perception_encoder.video.segments import SAME_SHOT, find_threshold

E = 64


def shots(lengths: list[int], noise: float, seed: int = 0) -> NDArray[np.float32]:
    """Frames of shots with random directions; neighbors in a shot differ by noise."""
    generator = np.random.default_rng(seed)
    centers = normalize_rows(generator.standard_normal((len(lengths), E)).astype(np.float32))
    frames = np.repeat(centers, lengths, axis=0)
    moved = frames + noise * generator.standard_normal(frames.shape).astype(np.float32) / 8
    return normalize_rows(moved)


def borders(found: list[VideoSegment]) -> list[float]:
    return [segment.start for segment in found] + [found[-1].end]


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_shots_end_between_the_frames_that_differ(noise: float) -> None:
    vectors = shots([3, 1, 5, 2], noise)
    found = find_segments(np.arange(11.0), vectors, 11.0)
    assert borders(found) == [0, 2.5, 3.5, 8.5, 11]
    assert [segment.num_frames for segment in found] == [3, 1, 5, 2]
    for segment, first, last in zip(found, [0, 3, 4, 9], [3, 4, 9, 11], strict=True):
        mean = normalize_rows(vectors[first:last].mean(axis=0, keepdims=True))[0]
        np.testing.assert_allclose(segment.vector, mean, atol=1e-5)
        assert first <= segment.frame_time < last
        assert segment.vector @ vectors[int(segment.frame_time)] == pytest.approx(
            (vectors[first:last] @ mean).max(), abs=1e-5
        )


def test_shots_end_at_the_cuts_that_the_encoder_saw() -> None:
    vectors = shots([3, 2, 4], 0.1)
    cuts = [0.5, 2.25, 2.75, 5.0, 7.5]  # before, between (two), just after, and within a shot
    assert borders(find_segments(np.arange(9.0), vectors, 9.0, cuts)) == [0, 2.75, 5.0, 9]
    assert borders(find_segments(np.arange(9.0), vectors, 9.0, [2.0, 4.0])) == [0, 2.5, 4.5, 9]


@pytest.mark.parametrize(
    ("keyframes", "cuts"),
    [
        ([0, 1, 2, 3, 4, 5], []),  # phones: one a second
        ([0, 1.02, 2.0, 2.99, 4.01], []),
        ([0, 5, 10, 12.5, 17.5, 22.5], [12.5]),  # the next one is counted from the cut
        ([0, 3.1, 5.4, 9.8], [3.1, 5.4, 9.8]),  # each at a scene
        ([0, 10, 13, 23, 24, 34, 36], [13, 24, 36]),
        ([0, 2.7, 6.0, 10.6, 12.8], [2.7, 6.0, 10.6, 12.8]),
        ([0, 3], [3]),
        ([0], []),
        ([], []),
        ([0, 10, 5, 15], []),  # times that begin again
        ([0, 9, 5, 7], [7, 9]),
    ],
)
def test_cuts_are_the_keyframes_that_come_early(keyframes: list[float], cuts: list[float]) -> None:
    assert find_cuts(keyframes) == cuts


@given(st.lists(st.floats(0, 1e6), max_size=40))
def test_any_keyframes_give_cuts_in_order(keyframes: list[float]) -> None:
    found = find_cuts(keyframes)
    assert found == sorted(found)
    assert set(found) <= set(keyframes[1:])


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_one_shot_is_one_segment(noise: float) -> None:
    (found,) = find_segments(np.arange(40.0), shots([40], noise), 40.0)
    assert (found.start, found.end) == (0, 40)


def test_a_slide_show_is_a_segment_for_each_slide() -> None:
    assert len(find_segments(np.arange(9.0), shots([1] * 9, 0.0), 9.0)) == 9


def test_a_slow_change_ends_segments_though_neighbors_are_alike() -> None:
    angles = np.linspace(0, np.pi / 2, 60)
    vectors = np.zeros((60, E), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    found = find_segments(np.arange(60.0), vectors, 60.0)
    assert 2 <= len(found) <= 6


def test_frames_may_come_in_any_order() -> None:
    vectors, times = shots([3, 4], 0.1), np.arange(7.0)
    order = np.random.default_rng(1).permutation(7)
    shuffled = find_segments(times[order], vectors[order], 7.0)
    assert borders(shuffled) == borders(find_segments(times, vectors, 7.0))


def test_the_frames_of_a_video_decide_between_the_bounds() -> None:
    restless = np.array([0.76] * 20 + [0.2] * 5, np.float32)
    calm = np.array([0.97] * 20 + [0.8] * 5, np.float32)
    assert find_threshold(restless) < 0.76
    assert 0.8 < find_threshold(calm) < 0.95
    shaky = np.random.default_rng(0).normal(0.85, 0.05, 100).astype(np.float32)
    assert find_threshold(shaky) == SAME_SHOT[0]
    assert find_threshold(np.array([], np.float32)) == SAME_SHOT[0]


@given(st.lists(st.floats(-1, 1, width=32), min_size=0, max_size=50))
def test_thresholds_stay_within_their_bounds(cosines: list[float]) -> None:
    assert SAME_SHOT[0] <= find_threshold(np.array(cosines, np.float32)) <= SAME_SHOT[1]


@given(
    st.lists(st.floats(0, 1e5), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
    st.floats(0, 2e5),
)
def test_segments_cover_the_video_without_gaps(times: list[float], seed: int, end: float) -> None:
    vectors = shots([1] * len(times), 0.0, seed)
    found = find_segments(np.array(times), vectors, end)
    assert found[0].start == 0
    assert found[-1].end >= end
    for one, following in pairwise(found):
        assert one.end == following.start
    for one in found:
        assert one.start <= one.frame_time <= one.end
        assert np.linalg.norm(one.vector) == pytest.approx(1, abs=1e-4)
    assert sum(one.num_frames for one in found) == len(times)
