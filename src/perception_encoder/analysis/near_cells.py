"""Divides images into small cells, so that images with near embeddings share a cell.

Comparing all pairs takes time in the square of the images. Here time and memory grow with the
images: an outline of each embedding, its position along the `_NUM_DIRECTIONS` directions in which
the embeddings differ most, is kept in memory (128 bytes an image). Outlines are divided by k-means
into branches, and these again, until a cell holds about `_CELL_SIZE` images. An image near the
border of two branches goes into both, and all is done `_NUM_TREES` times with other borders: of
pairs that are just near enough, and differ where images differ most, 2 or 3 of 1000 share no cell.
Then each cell is thinned: the distance of two outlines is at most that of the embeddings, so an
image without a near outline has no near embedding. What is left is little, and is compared exactly
by the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.ranked_images import Numbers, RankedVectors
from perception_encoder.types import Embeddings

_NUM_DIRECTIONS: Final = 64
_CELL_SIZE: Final = 1024
_NUM_TREES: Final = 2
_MAX_BRANCHES: Final = 256
_SAMPLE: Final = 65_536  # images to find the directions from
_SAMPLES_PER_BRANCH: Final = 40
_ROUNDS: Final = 6
_STUCK: Final = 0.8  # a branch with this share of its images is not divided further
_BORDER: Final = 1.4
"""How much of a pair's distance may lie across a border, in standard deviations: images closer to
it than that go to both sides. The difference of two copies points anywhere in d dimensions, so its
share along one direction has a standard deviation of 1 / √d."""
_ROUNDING: Final = 2e-3  # of the distance of two float16 outlines of length 1
_BLOCK: Final = 4096


@dataclass(frozen=True)
class CellDivider:
    """Outlines of images, and how near two must be.

    Attributes:
        outlines: (C, d) float16.
        distance: two embeddings that far apart still share a cell.
    """

    outlines: NDArray[np.float16]
    distance: float

    def cells(self) -> Iterator[Numbers]:
        """Yield the cells that the images are divided into, as ascending positions (M,)."""
        for seed in range(_NUM_TREES):
            yield from self._divided(np.arange(len(self.outlines)), seed)

    def _divided(self, members: Numbers, seed: int) -> Iterator[Numbers]:
        if len(members) <= 2 * _CELL_SIZE:
            yield members
            return
        for branch in self._branches(members, seed):
            if len(branch) > _STUCK * len(members):
                yield branch  # copies of one image cannot be divided
            else:
                yield from self._divided(branch, seed)

    def thin(self, members: Numbers) -> Numbers:
        """Return the images of a cell that have a near outline in it."""
        outlines = self.outlines[members].astype(np.float32)
        # One product gives minus half of each squared distance.
        half, ones = (outlines**2).sum(axis=1, keepdims=True) / 2, np.ones((len(members), 1))
        left = np.hstack([outlines, ones, -half]).astype(np.float32)
        right = np.hstack([outlines, -half, ones]).astype(np.float32)
        least = -((self.distance + _ROUNDING) ** 2) / 2
        is_near = np.empty(len(members), np.bool_)
        for start in range(0, len(members), _BLOCK):
            near = left[start : start + _BLOCK] @ right.T >= least
            is_near[start : start + _BLOCK] = np.count_nonzero(near, axis=1) > 1  # itself is one
        return members[is_near]

    def _branches(self, members: Numbers, seed: int) -> list[Numbers]:
        """Divide images into at most `_MAX_BRANCHES`; those near a border are in several."""
        number = min(_MAX_BRANCHES, -(-len(members) // _CELL_SIZE))
        centers = _centers(self.outlines, members, number, seed)
        gaps = np.sqrt(np.maximum(_squared_distances(centers, centers), 0))
        border = 2 * _BORDER * self.distance / np.sqrt(self.outlines.shape[1])
        parts = []
        for start in range(0, len(members), _BLOCK):
            outlines = self.outlines[members[start : start + _BLOCK]].astype(np.float32)
            squares = _squared_distances(outlines, centers)
            nearest = squares.argmin(axis=1)
            beyond = squares - squares[np.arange(len(squares)), nearest][:, np.newaxis]
            rows, branches = np.nonzero(beyond <= border * gaps[nearest])
            parts.append((members[start + rows], branches))
        places, branches = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(branches, kind="stable")  # members stay ascending
        borders = np.searchsorted(branches[order], np.arange(1, number))
        return [branch for branch in np.split(places[order], borders) if len(branch) > 1]


def divide(vectors: RankedVectors, chosen: Numbers, cosine: float) -> CellDivider:
    """Read the outlines of images; takes two passes over the index.

    Args:
        vectors: reads the embeddings.
        chosen: (C,) numbers of the images, ascending.
        cosine: pairs of at least this cosine are near.
    """
    random = np.random.default_rng(0)
    size = min(len(chosen), _SAMPLE)
    sample = vectors.read(np.sort(random.choice(chosen, size, replace=False)))
    mean = sample.mean(axis=0)
    centered = sample - mean
    directions = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :_NUM_DIRECTIONS]
    directions = np.ascontiguousarray(directions, np.float32)
    outlines = np.empty((len(chosen), directions.shape[1]), np.float16)
    for numbers, block in vectors.blocks(chosen):
        outlines[np.searchsorted(chosen, numbers)] = (block - mean) @ directions
    return CellDivider(outlines, float(np.sqrt(max(0.0, 2 - 2 * cosine))))


def _centers(outlines: NDArray[np.float16], members: Numbers, number: int, seed: int) -> Embeddings:
    """Return the centers of branches, (number, d), by k-means of a sample."""
    import faiss

    step = max(1, len(members) // (_SAMPLES_PER_BRANCH * number))
    sample = outlines[members[::step]].astype(np.float32)
    kmeans = faiss.Kmeans(
        sample.shape[1],
        number,
        niter=_ROUNDS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample),
    )
    kmeans.train(sample)
    return np.asarray(kmeans.centroids, np.float32)


def _squared_distances(points: Embeddings, centers: Embeddings) -> Embeddings:
    """(P, d) and (C, d) to (P, C)."""
    lengths = (points**2).sum(axis=1)[:, np.newaxis], (centers**2).sum(axis=1)
    distances: Embeddings = lengths[0] + lengths[1] - 2 * points @ centers.T
    return distances
