"""Finds the shots of a video from the embeddings of its frames."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows

SAME_SHOT: Final = (0.7, 0.9)
"""Cosine of two neighboring frames: below the first they are always of two shots, above the second
never. Between them the video's own frames decide."""

_APART: Final = 0.85
"""Share of the variance between two groups; of one group that is cut in two, it is 0.64 to 0.75."""

_LEAST_GAP: Final = 0.1  # between the means of the two groups
_MIN_SECONDS: Final = 0.001
_NEAR: Final = 0.0006  # seconds; of what a container rounds


@dataclass(frozen=True, slots=True)
class VideoSegment:
    """A part of a video that looks alike.

    Attributes:
        start: seconds.
        end: seconds, after the start.
        frame_time: seconds of the frame that is most like the whole segment.
        vector: (E,) float32, unit length: the normalized mean of its frames.
        num_frames: sampled frames in it.
    """

    start: float
    end: float
    frame_time: float
    vector: Embeddings
    num_frames: int


def find_segments(
    times: NDArray[np.float64], vectors: Embeddings, end: float, cuts: Sequence[float] = ()
) -> list[VideoSegment]:
    """Divide a video into segments.

    A segment ends where a frame differs from the one before it, or from the mean of the segment so
    far, so a slow change ends one as well. The border is at the last cut between the two frames,
    and halfway where there is none.

    Args:
        times: (N,) seconds of the sampled frames, in any order; at least one.
        vectors: (N, E) float32, unit length.
        end: seconds at which the video ends.
        cuts: seconds at which the encoder saw scenes begin, ascending.

    Returns:
        Segments in order, without gaps, from 0 to the end.
    """
    order = np.argsort(times, kind="stable")
    times, vectors = times[order], vectors[order]
    threshold = find_threshold(np.sum(vectors[1:] * vectors[:-1], axis=1))
    firsts = [0]
    total = vectors[0].copy()
    for number in range(1, len(times)):
        mean = total / max(float(np.linalg.norm(total)), 1e-12)
        is_alike = min(vectors[number] @ vectors[number - 1], vectors[number] @ mean) >= threshold
        if not is_alike:
            firsts.append(number)
            total = np.zeros_like(total)
        total += vectors[number]
    borders = [
        0.0,
        *(_find_border(float(times[first - 1]), float(times[first]), cuts) for first in firsts[1:]),
    ]
    borders.append(max(end, float(times[-1]), borders[-1] + _MIN_SECONDS))
    lasts = [*firsts[1:], len(times)]
    return [
        _describe(times[first:last], vectors[first:last], start, stop)
        for first, last, (start, stop) in zip(firsts, lasts, pairwise(borders), strict=True)
    ]


def _find_border(before: float, after: float, cuts: Sequence[float]) -> float:
    """Return where a scene ends between two frames."""
    place = bisect_right(cuts, after + _NEAR)
    if place and cuts[place - 1] > before + _NEAR:
        return min(cuts[place - 1], after)
    return (before + after) / 2


def find_threshold(cosines: NDArray[np.float32]) -> float:
    """Return the cosine below which neighboring frames are of two shots.

    If the cosines form two groups that are clearly apart, it is between them (Otsu's method),
    within `SAME_SHOT`; else it is the lower bound.

    Args:
        cosines: (N - 1,) of neighboring frames.
    """
    ordered = np.sort(cosines.astype(np.float64))
    if len(ordered) < 2 or ordered.var() == 0:
        return SAME_SHOT[0]
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    lower, upper = sums[:-1] / below, (sums[-1] - sums[:-1]) / below[::-1]
    between = below * below[::-1] * (upper - lower) ** 2 / len(ordered) ** 2
    best = int(np.argmax(between))
    is_apart = between[best] >= _APART * ordered.var() and upper[best] - lower[best] >= _LEAST_GAP
    if not is_apart:
        return SAME_SHOT[0]
    return float(np.clip((ordered[best] + ordered[best + 1]) / 2, *SAME_SHOT))


def _describe(
    times: NDArray[np.float64], vectors: Embeddings, start: float, end: float
) -> VideoSegment:
    mean = vectors.mean(axis=0, keepdims=True)
    vector = normalize_rows(mean)[0] if np.linalg.norm(mean) > 1e-6 else vectors[0]
    central = int(np.argmax(vectors @ vector))
    return VideoSegment(
        float(start), float(end), float(times[central]), vector.astype(np.float32), len(times)
    )
