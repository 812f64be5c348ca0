"""Divides images into small cells, so that images with near embeddings share a cell.

Comparing all pairs takes time in the square of the images. Here time and memory grow with the
images: an outline of each embedding, its position along the `_NUM_DIRECTIONS` directions in which
the embeddings differ most, is kept in memory (128 bytes an image). The nearest of many centers,
found by k-means, is the cell of an outline; an image near the border of two cells goes into both.
All is done `_NUM_TREES` times with other borders: of pairs that are just near enough, and differ
where images differ most, 2 or 3 of 1000 share no cell. Then each cell is thinned: the distance of
two outlines is at most that of the embeddings, so an image without a near outline has no near
embedding. What is left is little, and is compared exactly by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.ranked_images import Numbers, RankedVectors
from perception_encoder.kmeans import find_means
from perception_encoder.types import Embeddings

_NUM_DIRECTIONS: Final = 64
_CELL_SIZE: Final = 256
_MAX_CELL: Final = 8 * _CELL_SIZE  # with images of other cells; a larger one is divided again
_NUM_TREES: Final = 2
_FEW_CENTERS: Final = 256  # all of them are compared with an image
_CENTERS_IN_REGION: Final = 64
_NEAR_REGIONS: Final = 16  # their centers are compared with an image
_SAMPLE: Final = 65_536  # images to find the directions from
_SAMPLES_PER_CENTER: Final = 40
_ROUNDS: Final = 6
_STUCK: Final = 0.8  # a cell with this share of the images is not divided further
_BORDER: Final = 1.4
"""How much of a pair's distance may lie across a border, in standard deviations: images closer to
it than that go to both sides. The difference of two copies points anywhere in d dimensions, so its
share along one direction has a standard deviation of 1 / √d."""
_PLACE_BITS: Final = 40  # of an image's position, before the number of its cell
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
        for cell in self._cells(members, seed):
            if len(cell) <= _MAX_CELL or len(cell) > _STUCK * len(members):
                yield cell  # copies of one image cannot be divided
            else:
                yield from self._divided(cell, seed)

    def thin(self, members: Numbers) -> Numbers:
        """Return the images of a cell that have a near outline in it."""
        outlines = self.outlines[members].astype(np.float32)
        # One product gives minus half of each squared distance.
        half, ones = (outlines**2).sum(axis=1, keepdims=True) / 2, np.ones((len(members), 1))
        left = np.hstack([outlines, ones, -half]).astype(np.float32)
        right = np.hstack([outlines, -half, ones]).astype(np.float32)
        least = -((self.distance + _ROUNDING) ** 2) / 2
        nearest = np.empty(len(members), np.float32)
        for start in range(0, len(members), _BLOCK):
            products = left[start : start + _BLOCK] @ right.T
            own = np.arange(len(products))
            products[own, start + own] = -np.inf
            nearest[start : start + _BLOCK] = products.max(axis=1)
        return members[nearest >= least]

    def _cells(self, members: Numbers, seed: int) -> Iterator[Numbers]:
        """Divide images into cells of about `_CELL_SIZE`; those near a border are in several."""
        entries = np.empty(2 * len(members), np.int64)
        num_entries = 0
        for region, centers, numbers in self._regions(members, seed):
            for places, cells in self._assign(region, centers):
                end = num_entries + len(places)
                if end > len(entries):
                    entries.resize(end + len(members), refcheck=False)  # in place, not a copy
                # One number for a cell and an image in it: sorted, a cell's images are ascending.
                entries[num_entries:end] = (numbers[cells] << _PLACE_BITS) | places
                num_entries = end
        entries = entries[:num_entries]
        entries.sort()
        last = int(entries[-1] >> _PLACE_BITS) if num_entries else 0
        for cell in np.split(
            entries, np.searchsorted(entries, np.arange(1, last + 1) << _PLACE_BITS)
        ):
            if len(cell) > 1:
                yield cell & ((1 << _PLACE_BITS) - 1)

    def _regions(
        self, members: Numbers, seed: int
    ) -> Iterator[tuple[Numbers, Embeddings, Numbers]]:
        """Divide images into regions, with the centers that may be nearest there.

        Yields:
            Images, (c, d) centers, and (c,) their numbers.
        """
        num_centers = -(-len(members) // _CELL_SIZE)
        if num_centers <= _FEW_CENTERS:
            centers = _find_centers(self.outlines, members, num_centers, seed)
            yield members, centers, np.arange(num_centers)
            return
        heads = _find_centers(self.outlines, members, num_centers // _CENTERS_IN_REGION, seed)
        nearest = [
            _squared_distances(self._read(block), heads).argmin(axis=1)
            for block in _blocks(members)
        ]
        used, groups = np.unique(np.concatenate(nearest), return_inverse=True)
        heads, regions = heads[used], _split(members, groups, len(used))
        found = [
            _find_centers(self.outlines, region, -(-len(region) // _CELL_SIZE), seed)
            for region in regions
        ]
        ends = np.cumsum([len(centers) for centers in found])
        numbers = [
            np.arange(end - len(centers), end) for centers, end in zip(found, ends, strict=True)
        ]
        near = np.argsort(_squared_distances(heads, heads), axis=1)[:, :_NEAR_REGIONS]
        for region, some in zip(regions, near, strict=True):
            yield (
                region,
                np.concatenate([found[place] for place in some]),
                np.concatenate([numbers[place] for place in some]),
            )

    def _assign(self, members: Numbers, centers: Embeddings) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield images with a center each: the nearest, and those that are nearly as near."""
        gaps = np.sqrt(np.maximum(_squared_distances(centers, centers), 0))
        most = gaps.max(axis=1)
        border = 2 * _BORDER * self.distance / math.sqrt(self.outlines.shape[1])
        for block in _blocks(members):
            squares = _squared_distances(self._read(block), centers)
            nearest = squares.argmin(axis=1)
            least = squares[np.arange(len(block)), nearest]
            rows, near = np.nonzero(squares <= (least + border * most[nearest])[:, np.newaxis])
            beyond = squares[rows, near] - least[rows]
            is_at_border = beyond <= border * gaps[nearest[rows], near]
            yield block[rows[is_at_border]], near[is_at_border]

    def _read(self, members: Numbers) -> Embeddings:
        return self.outlines[members].astype(np.float32)


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


def _find_centers(
    outlines: NDArray[np.float16], members: Numbers, number: int, seed: int
) -> Embeddings:
    """Return centers, (number, d), by k-means of a sample."""
    step = max(1, len(members) // (_SAMPLES_PER_CENTER * number))
    sample = outlines[members[::step]].astype(np.float32)
    return find_means(sample, number, rounds=_ROUNDS, seed=seed)


def _blocks(members: Numbers) -> Iterator[Numbers]:
    for start in range(0, len(members), _BLOCK):
        yield members[start : start + _BLOCK]


def _split(members: Numbers, groups: Numbers, num_groups: int) -> list[Numbers]:
    """Return the members of each group, in their order."""
    order = np.argsort(groups, kind="stable")
    return np.split(members[order], np.searchsorted(groups[order], np.arange(1, num_groups)))


def _squared_distances(points: Embeddings, centers: Embeddings) -> Embeddings:
    """(P, d) and (C, d) to (P, C)."""
    lengths = (points**2).sum(axis=1)[:, np.newaxis], (centers**2).sum(axis=1)
    distances: Embeddings = lengths[0] + lengths[1] - 2 * points @ centers.T
    return distances
