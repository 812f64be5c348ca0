"""What patch features show: colors by principal components, the foreground, corresponding patches.

The colors and the foreground follow the figures of DINOv2 (Oquab et al., arXiv 2304.07193, figures
1 and 9): the first component divides the subject from its background, and three components are red,
green and blue. Matches follow its figure 10: patches of the foreground that are each other's
nearest, thinned to a few that are apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.patch_features import PatchFeatures
from perception_encoder.vectors import normalize_rows

_NUM_COLORS: Final = 3
_CLIPPED: Final = (1, 99)  # percentiles that become darkest and brightest
_NUM_BINS: Final = 256
_BLOCK: Final = 1024  # patches compared at once with all of the other image


@dataclass(frozen=True, eq=False)
class PatchMatches:
    """Patches of two images that are each other's nearest by cosine, best first.

    Attributes:
        points_a: (K, 2) float32, x and y of the patches' centers in pixels of the first image.
        points_b: (K, 2) float32, those in the second one.
        scores: (K,) float32 cosines.
    """

    points_a: NDArray[np.float32]
    points_b: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


def color_patches(
    features: Sequence[PatchFeatures], masks: Sequence[NDArray[np.bool_]] | None = None
) -> list[NDArray[np.uint8]]:
    """Color patches by the first three principal components of all images together.

    Patches of the same color have similar features, in one image as in several. Features are
    scaled to unit length first. Each component spans its 1st to 99th percentile.

    Args:
        features: of the images, all of one model and layer.
        masks: (h·w,) of each image, of `find_foreground`; other patches become black, and do not
            count.

    Returns:
        (h, w, 3) uint8, RGB, of each image.

    Raises:
        ValueError: there are no images, no patches are left, or widths differ.
    """
    if masks is None:
        masks = [np.ones(len(one.values), bool) for one in features]
    rows = [normalize_rows(one.values) for one in features]
    kept = [each[mask] for each, mask in zip(rows, masks, strict=True)]
    mean, components = _principal_components(kept, _NUM_COLORS)
    scores = [(each - mean) @ components for each in kept]
    low, high = np.percentile(np.concatenate(scores), _CLIPPED, axis=0)
    span = np.where(high > low, high - low, 1)
    colors = []
    for one, mask, score in zip(features, masks, scores, strict=True):
        levels = np.zeros((len(mask), _NUM_COLORS), np.uint8)
        levels[mask] = np.clip((score - low) / span, 0, 1) * 255
        colors.append(levels.reshape(*one.grid, _NUM_COLORS))
    return colors


def find_foreground(features: Sequence[PatchFeatures]) -> list[NDArray[np.bool_]]:
    """Divide the patches of images by their first principal component, at Otsu's threshold.

    The foreground is the side that has fewer of the patches along the borders of the images. Images
    that are filled by one subject, or hold unlike subjects, may be divided in another way.

    Args:
        features: of the images, all of one model and layer.

    Returns:
        (h·w,) bool of each image, True for the foreground.

    Raises:
        ValueError: there are no images, or widths differ.
    """
    rows = [normalize_rows(one.values) for one in features]
    mean, components = _principal_components(rows, 1)
    scores = [((each - mean) @ components)[:, 0] for each in rows]
    threshold = _otsu_threshold(np.concatenate(scores))
    masks = [score > threshold for score in scores]
    borders = np.concatenate(
        [mask[_border(one.grid)] for mask, one in zip(masks, features, strict=True)]
    )
    return [~mask for mask in masks] if borders.mean() > 0.5 else masks


def match_patches(
    a: PatchFeatures, b: PatchFeatures, k: int | None = None, *, only_foreground: bool = False
) -> PatchMatches:
    """Find patches of two images that are each other's nearest by cosine.

    A match says that the model finds two places alike, not that they are the same point: mirrored
    or repeated parts, plain backgrounds and left or right are confused. Points are as exact as the
    patches are large.

    Args:
        a: features of an image.
        b: features of another one, by the same model and layer.
        k: return the best matches only, none closer to a better one in `a` than half the distance
            that k evenly spread points have. None returns all.
        only_foreground: match patches of `find_foreground` only.

    Returns:
        The matches, best first; none where the images have no patches to match.

    Raises:
        ValueError: the features differ in width, or `k` is below 1.
    """
    if a.values.shape[1] != b.values.shape[1]:
        raise ValueError(
            f"cannot match features of {a.values.shape[1]} and of {b.values.shape[1]} dimensions"
        )
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    masks = [np.ones(len(one.values), bool) for one in (a, b)]
    if only_foreground:
        masks = find_foreground([a, b])
    places_a, places_b = (np.flatnonzero(mask) for mask in masks)
    if not len(places_a) or not len(places_b):
        nowhere = np.zeros((0, 2), np.float32)
        return PatchMatches(nowhere, nowhere, np.zeros(0, np.float32))
    nearest_b, scores, nearest_a = _find_nearest(
        normalize_rows(a.values[places_a]), normalize_rows(b.values[places_b])
    )
    mutual = np.flatnonzero(nearest_a[nearest_b] == np.arange(len(places_a)))
    order = mutual[np.argsort(-scores[mutual], kind="stable")]
    if k is not None:
        order = order[_spread(places_a[order], a.grid, k)]
    return PatchMatches(
        a.centers()[places_a[order]], b.centers()[places_b[nearest_b[order]]], scores[order]
    )


def _principal_components(
    rows: Sequence[NDArray[np.float32]], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean (D,) and the directions (D, count) of the largest variance."""
    widths = {each.shape[1] for each in rows}
    num_rows = sum(map(len, rows))
    if len(widths) != 1 or not num_rows:
        raise ValueError(
            "there are no patches to compare" if not num_rows else f"features of widths {widths}"
        )
    mean = sum(each.sum(axis=0, dtype=np.float64) for each in rows) / num_rows
    covariance = sum((centered := each - mean).T @ centered for each in rows) / num_rows
    _, directions = np.linalg.eigh(np.asarray(covariance))
    components = directions[:, ::-1][:, :count]
    # A direction's sign is arbitrary: the entry of the largest size is positive.
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, range(components.shape[1])])
    return np.asarray(mean, np.float32), np.asarray(components, np.float32)


def _otsu_threshold(scores: NDArray[np.float32]) -> float:
    """Return the value that divides scores into two groups of the largest distance.

    Otsu, A threshold selection method from gray-level histograms (1979).
    """
    counts, edges = np.histogram(scores, _NUM_BINS)
    centers = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centers).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = sums / below - (sums[-1] - sums) / above
    between = np.nan_to_num(below * above * distance**2, nan=0.0, posinf=0.0)
    return float(edges[between.argmax() + 1])


def _border(grid: tuple[int, int]) -> NDArray[np.bool_]:
    border = np.ones(grid, bool)
    border[1:-1, 1:-1] = False
    return border.ravel()


def _find_nearest(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return the nearest of `b` for each row of `a` with its score, and the nearest of `a`."""
    nearest_b = np.empty(len(a), np.int64)
    scores = np.empty(len(a), np.float32)
    nearest_a = np.zeros(len(b), np.int64)
    best_a = np.full(len(b), -np.inf, np.float32)
    for start in range(0, len(a), _BLOCK):
        cosines = a[start : start + _BLOCK] @ b.T
        places = slice(start, start + len(cosines))
        nearest_b[places] = cosines.argmax(axis=1)
        scores[places] = cosines.max(axis=1)
        best = cosines.max(axis=0)
        is_better = best > best_a
        nearest_a[is_better] = start + cosines.argmax(axis=0)[is_better]
        best_a = np.maximum(best, best_a)
    return nearest_b, np.clip(scores, -1, 1), nearest_a


def _spread(places: NDArray[np.int64], grid: tuple[int, int], k: int) -> list[int]:
    """Return positions of up to k places, each the best among those around it."""
    distance = np.sqrt(grid[0] * grid[1] / k) / 2
    points = np.stack(np.divmod(places, grid[1]), axis=-1)
    kept: list[int] = []
    for position, point in enumerate(points):
        if len(kept) == k:
            break
        gaps = np.hypot(*(points[kept] - point).T)
        if not kept or gaps.min() >= distance:
            kept.append(position)
    return kept
