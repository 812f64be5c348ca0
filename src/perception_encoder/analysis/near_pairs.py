"""Finds pairs of images with near embeddings, without a matrix of all pairs.

Up to `MAX_EXACT` images, all pairs are compared block by block: R² · E / 2 multiplications (under a
minute for 50,000 embeddings of E = 1024 on two cores) and R · E · 4 bytes. Beyond that, only images
in a common small cell of the space are compared (`near_cells`): time and memory grow with R. At
most `MAX_PARTNERS` pairs of an image are kept, 20 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.near_cells import divide
from perception_encoder.analysis.ranked_images import (
    Numbers,
    RankedImages,
    RankedVectors,
    ReportStep,
    report_nothing,
)
from perception_encoder.index import Index
from perception_encoder.types import Embeddings

_GROUP_BYTES: Final = 512 << 20  # of embeddings in memory
MAX_EXACT: Final = 50_000
MAX_PARTNERS: Final = 64

SAME_IMAGE: Final = 0.99
"""Embeddings of equal pixels have at least this cosine: rounding to float16 in the index and bf16
in the backend, in different batches, changes it far less."""

_BLOCK: Final = 2048  # images; a block of products takes 16 MB
_COVER_BLOCK: Final = 65_536  # pairs


class CellGroup(NamedTuple):
    """Some cells and the embeddings of their members.

    Attributes:
        cells: the members of each cell, ascending.
        numbers: (G,) int64 ascending, the members of all cells.
        vectors: (G, E) float32, their embeddings.
    """

    cells: list[Numbers]
    numbers: Numbers
    vectors: Embeddings


def _iter_groups(vectors: RankedVectors, cells: Sequence[Numbers]) -> Iterator[CellGroup]:
    """Yield cells, as many at a time as memory allows. Each group takes one pass over the index."""
    room = max(1, _GROUP_BYTES // (4 * vectors.embed_dim))
    ends = np.cumsum([len(members) for members in cells]) // room
    for _, part in groupby(range(len(cells)), key=lambda place: int(ends[place])):
        group = [cells[place] for place in part]
        numbers = np.unique(np.concatenate(group))
        yield CellGroup(group, numbers, vectors.read(numbers))


@dataclass(frozen=True)
class NearPairs:
    """Pairs of images with near embeddings; a pair may occur twice.

    Attributes:
        earlier: (P,) int64, the number of the preferred image of each pair.
        later: (P,) int64, the number of the other image.
        scores: (P,) float32, their cosine.
        may_be_equal: (R,) bool: whether another image has the same width and height and a nearly
            equal embedding.
        is_crowded: (R,) bool: whether pairs of the image were left out.
    """

    earlier: Numbers
    later: Numbers
    scores: NDArray[np.float32]
    may_be_equal: NDArray[np.bool_]
    is_crowded: NDArray[np.bool_]

    def among(self, usable: NDArray[np.bool_]) -> NearPairs:
        """Return the pairs of usable images, given (R,) bool."""
        kept = usable[self.earlier] & usable[self.later]
        return NearPairs(
            self.earlier[kept],
            self.later[kept],
            self.scores[kept],
            self.may_be_equal & usable,
            self.is_crowded,
        )


def find_near_pairs(
    index: Index,
    images: RankedImages,
    chosen: Numbers,
    *,
    threshold: float,
    where: str | None,
    max_exact: int | None = None,
    report: ReportStep = report_nothing,
) -> NearPairs:
    """Find the pairs with a cosine of at least the threshold.

    An image keeps its pairs with the `MAX_PARTNERS` most preferred images, so that all images of a
    large group have a pair with the best of them. Of many images only those in a common cell are
    compared, which misses a few pairs of 1000.

    Args:
        index: the index.
        images: its images.
        chosen: (C,) numbers of the images to compare, ascending.
        threshold: the lowest cosine.
        where: the condition that `images` was made with.
        max_exact: of at most so many images all pairs are compared; None for `MAX_EXACT`.
        report: called between blocks.
    """
    max_exact = MAX_EXACT if max_exact is None else max_exact
    comparison = _Comparison(images.shapes, threshold, report)
    vectors = RankedVectors(index, images, where, report)
    if len(chosen) <= max_exact:
        comparison.num_images = len(chosen)
        comparison.compare(chosen, vectors.read(chosen))
        return comparison.result()
    cells = _find_cells(vectors, chosen, comparison.floor)
    comparison.num_images = sum(map(len, cells))
    for group in _iter_groups(vectors, cells):
        for members in group.cells:
            for start in range(0, len(members), max_exact):  # a cell may hold all images
                part = members[start : start + max_exact]
                places = np.searchsorted(group.numbers, part)
                comparison.compare(part, group.vectors[places])
            if len(members) > max_exact:
                comparison.is_crowded[members] = True
    return comparison.result()


def _find_cells(vectors: RankedVectors, chosen: Numbers, cosine: float) -> list[Numbers]:
    """Return the images that may have a partner, cell by cell, ascending."""
    divider = divide(vectors, chosen, cosine)
    found = []
    for members in divider.cells():
        vectors.report("comparing outlines", 0, 0)
        thin = divider.thin(members)
        if len(thin) > 1:
            found.append(chosen[thin])
    return found


class _Comparison:
    """Compares sets of images, and collects their near pairs."""

    def __init__(self, shapes: Numbers, threshold: float, report: ReportStep) -> None:
        self._report = report
        self.num_images = 0
        self._num_compared = 0
        self.floor: Final = min(threshold, SAME_IMAGE)
        self.is_crowded: Final = np.zeros(len(shapes), np.bool_)
        self._threshold = threshold
        self._shapes = shapes
        self._may_be_equal = np.zeros(len(shapes), np.bool_)
        self._parts: list[tuple[Numbers, Numbers, NDArray[np.float32]]] = []

    def compare(self, numbers: Numbers, vectors: Embeddings) -> None:
        """Compare each image with the images that are preferred to it.

        Args:
            numbers: (C,) ascending.
            vectors: (C, E) float32, unit length.
        """
        for first in range(0, len(vectors), _BLOCK):
            block = vectors[first : first + _BLOCK]
            num_partners = np.zeros(len(block), np.int64)
            for start in range(0, first + 1, _BLOCK):
                self._report("comparing images", self._num_compared, self.num_images)
                products = block @ vectors[start : start + _BLOCK].T
                if start == first:
                    # The images themselves, and pairs that occur twice.
                    products[np.triu_indices(len(block))] = -np.inf
                rows, columns = np.nonzero(products >= self.floor)
                scores = np.minimum(products[rows, columns], 1)
                earlier, later = numbers[start + columns], numbers[first + rows]
                self._note_equal(earlier, later, scores)
                is_near = scores >= self._threshold
                fits = _first_few(rows, is_near, num_partners)
                self._parts.append((earlier[fits], later[fits], scores[fits]))
                self.is_crowded[later[is_near & ~fits]] = True
            self._num_compared += len(block)

    def result(self) -> NearPairs:
        none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        earlier, later, scores = (
            np.concatenate(parts) for parts in zip(none, *self._parts, strict=True)
        )
        return NearPairs(earlier, later, scores, self._may_be_equal, self.is_crowded)

    def _note_equal(self, earlier: Numbers, later: Numbers, scores: NDArray[np.float32]) -> None:
        is_same = (scores >= SAME_IMAGE) & (self._shapes[earlier] == self._shapes[later])
        self._may_be_equal[earlier[is_same]] = True
        self._may_be_equal[later[is_same]] = True


def _first_few(
    rows: NDArray[np.intp], is_near: NDArray[np.bool_], num_partners: Numbers
) -> NDArray[np.bool_]:
    """Return (P,) bool: whether a near pair is among the first `MAX_PARTNERS` of its row.

    Args:
        rows: (P,) ascending, the row of each pair in the block.
        is_near: (P,) bool: whether the pair counts.
        num_partners: (B,) the pairs that each row has already; the new ones are added.
    """
    before: Numbers = np.cumsum(is_near) - is_near  # near pairs of all rows before each pair
    of_row: Numbers = before - before[np.searchsorted(rows, rows)]
    fits = is_near & (num_partners[rows] + of_row < MAX_PARTNERS)
    num_partners += np.bincount(rows[fits], minlength=len(num_partners))
    return fits


class StarCover(NamedTuple):
    """(R,) int64, the kept item that each item belongs to, and (R,) float32, their score."""

    kept: Numbers
    scores: NDArray[np.float32]


def find_star_cover(
    first: Numbers,
    second: Numbers,
    scores: NDArray[np.float32],
    num_items: int,
    report: ReportStep = report_nothing,
) -> StarCover:
    """Choose the items to keep, so that every other item has a pair with a kept one.

    Args:
        first: (P,) int64, one item of each pair; pairs may repeat, or join an item to itself.
        second: (P,) int64, the other item.
        scores: (P,) float32, their scores.
        num_items: number of items; smaller numbers are preferred.
        report: called between blocks of pairs.

    Returns:
        The cover; an item that is kept belongs to itself, with score 1.
    """
    kept = np.arange(num_items)
    best = np.ones(num_items, np.float32)
    earlier, later = np.minimum(first, second), np.maximum(first, second)
    proper = earlier != later
    earlier, later, scores = earlier[proper], later[proper], scores[proper]
    order = np.lexsort((earlier, -scores, later))  # of each item the best pair first
    for number, place in enumerate(order.tolist()):
        if number % _COVER_BLOCK == 0:
            report("choosing images to keep", number, len(order))
        item, partner = later[place], earlier[place]
        if kept[item] == item and kept[partner] == partner:
            kept[item] = partner
            best[item] = scores[place]
    return StarCover(kept, best)
