"""The nearest neighbors of every image of an index, and the images that are far from all: outliers.

Up to `MAX_REFERENCES` images, neighbors are exact. Beyond that they are found among a random sample
of that size, as in M. Wu and C. Jermaine, "Outlier detection by sampling with accuracy guarantees"
(2006): R · `MAX_REFERENCES` · E multiplications instead of R² · E, and 0.1 GB of embeddings.

An outlier's score is its mean distance to its nearest neighbors (F. Angiulli and C. Pizzuti, "Fast
outlier detection in high dimensional spaces", 2002). Which distance is unusual depends on the
collection, so the threshold comes from the collection's own distances: their logarithms are taken
as normal to the right of the median, with the scale of the upper quantiles, which up to a tenth of
outliers cannot move. `rate` is the share of ordinary images beyond the threshold if that is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.ranked_images import Numbers, RankedVectors
from perception_encoder.vectors import find_nearest_rows

MAX_REFERENCES: Final = 20_000
NUM_NEIGHBORS: Final = 10
LEAST_IMAGES: Final = 30
"""With fewer images, no distance is called unusual."""

_NUM_AVERAGED: Final = 5  # neighbors; a pair of copies is no reason to call both ordinary
_SMALLEST: Final = 1e-3  # of a distance: float16 changes it by about this much
_LEAST_SCALE: Final = 0.05
_UPPER: Final = 0.9
_SEED: Final = 0


@dataclass(frozen=True)
class Neighbors:
    """The nearest neighbors of R images, without the images themselves.

    Attributes:
        numbers: (R, k) int64, the nearest first; -1 where there are fewer images.
        cosines: (R, k) float32; NaN where there is none.
        is_exact: whether all images were compared, or a sample.
    """

    numbers: Numbers
    cosines: NDArray[np.float32]
    is_exact: bool


def find_neighbors(vectors: RankedVectors, num_images: int) -> Neighbors:
    """Find the `NUM_NEIGHBORS` nearest neighbors of each image; two passes over the index."""
    count = min(num_images, MAX_REFERENCES)
    references = np.arange(num_images)
    if num_images > count:
        random = np.random.default_rng(_SEED)
        references = np.sort(random.choice(num_images, count, replace=False))
    numbers = np.full((num_images, NUM_NEIGHBORS), -1, np.int64)
    cosines = np.full((num_images, NUM_NEIGHBORS), np.nan, np.float32)
    if num_images < 2:
        return Neighbors(numbers, cosines, is_exact=True)
    rows = vectors.read(references)
    width = min(NUM_NEIGHBORS, count - 1)
    for own, block in vectors.blocks(np.arange(num_images)):
        scores, places = find_nearest_rows(block, rows, width + 1)
        found = references[places]
        # The image itself is left out, or the last one where copies hide it or it is no reference.
        is_own = found == own[:, None]
        is_own[~is_own.any(axis=1), -1] = True
        numbers[own, :width] = found[~is_own].reshape(-1, width)
        cosines[own, :width] = np.clip(scores[~is_own].reshape(-1, width), -1, 1)
    return Neighbors(numbers, cosines, is_exact=num_images == count)


@dataclass(frozen=True)
class Outliers:
    """The images that are far from all others.

    Attributes:
        numbers: the most unusual first.
        distances: (R,) float32: of every image, the mean of 1 - cosine over its nearest neighbors.
        threshold: the distance from which an image is an outlier; infinite for few images.
    """

    numbers: Numbers
    distances: NDArray[np.float32]
    threshold: float


def find_outliers(neighbors: Neighbors, rate: float) -> Outliers:
    """Find the images whose neighbors are unusually far.

    Args:
        neighbors: of all images.
        rate: the share of ordinary images that may be called outliers.

    Raises:
        ValueError: a rate that is not between 0 and 0.5.
    """
    if not 0 < rate < 0.5:
        raise ValueError(f"the rate of outliers must be between 0 and 0.5, got {rate}")
    near = neighbors.cosines[:, :_NUM_AVERAGED]
    if len(near) < LEAST_IMAGES:
        return Outliers(np.empty(0, np.int64), np.full(len(near), np.nan, np.float32), np.inf)
    distances = np.maximum(1 - near.mean(axis=1), 0).astype(np.float32)
    levels = np.log(distances.astype(np.float64) + _SMALLEST)
    middle, upper = np.quantile(levels, [0.5, _UPPER])
    scale = max((upper - middle) / NormalDist().inv_cdf(_UPPER), _LEAST_SCALE)
    highest = middle + NormalDist().inv_cdf(1 - rate) * scale
    found = np.flatnonzero(levels > highest)
    order = np.lexsort((found, -distances[found]))
    return Outliers(found[order], distances, float(np.exp(highest) - _SMALLEST))
