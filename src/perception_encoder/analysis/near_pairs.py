"""Which images of an index lie near each other: pairs of numbers, never a matrix of all pairs.

Up to `MAX_EXACT` images every two are compared, block by block: R² · E / 2 multiplications (under
a minute for 50,000 vectors of E = 1024 on two cores) and R · E · 4 bytes. With more, every two that
share a cell of the space are (`cells`): about R^1.5 · E · 10 multiplications and 0.5 GB of vectors
whatever R is (a million of E = 512: 5 minutes on two cores, 1.6 GB in all). Of each
image at most `MAX_PARTNERS` pairs are kept, 20 bytes each. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.ranked_images import (
    Checkpoint,
    Numbers,
    RankedImages,
    RankedVectors,
    do_nothing,
)
from perception_encoder.index import Index
from perception_encoder.types import Embeddings

_MARGIN: Final = 0.15
_CELLS_PER_ROOT: Final = 2  # cells = 2 √R: dividing and comparing then take about as long
_SAMPLES_PER_CELL: Final = 20
_ROUNDS: Final = 8
_SEED: Final = 0
_GROUP_BYTES: Final = 512 << 20  # of vectors in memory
MAX_EXACT: Final = 50_000
MAX_PARTNERS: Final = 64

SAME_IMAGE: Final = 0.99
"""Equal pixels give equal vectors but for rounding: float16 in the index, bf16 in the backend, and
another batch. All of it together stays far above this cosine."""

_BLOCK: Final = 2048  # images; a block of products has 16 MB
_COVER_BLOCK: Final = 65_536  # pairs


@dataclass(frozen=True)
class CellGroup:
    """Some cells, and the vectors of all their members.

    Attributes:
        cells: each cell's members, ascending.
        numbers: (G,) int64 ascending, the members of all.
        vectors: (G, E) float32, theirs.
    """

    cells: list[Numbers]
    numbers: Numbers
    vectors: Embeddings

    def places(self, members: Numbers) -> Numbers:
        """Return where in `vectors` some members' are."""
        return np.searchsorted(self.numbers, members)


def iter_cell_groups(vectors: RankedVectors, chosen: Numbers, cosine: float) -> Iterator[CellGroup]:
    """Yield all cells with more than one member, as many at a time as memory allows.

    Each group is one pass over the index.

    Args:
        vectors: of the index's images.
        chosen: (C,) ascending, the images that take part.
        cosine: pairs of at least this cosine are to share a cell.
    """
    margin = _MARGIN * float(np.sqrt(2 - 2 * cosine))
    room = max(1, _GROUP_BYTES // (4 * vectors.embed_dim))
    group: list[Numbers] = []
    taken = 0
    for members in _members(vectors, chosen, margin):
        if group and taken + len(members) > room:
            yield _group(vectors, group)
            group, taken = [], 0
        group.append(members)
        taken += len(members)
    if group:
        yield _group(vectors, group)


def _group(vectors: RankedVectors, cells: list[Numbers]) -> CellGroup:
    numbers = np.unique(np.concatenate(cells))
    return CellGroup(cells, numbers, vectors.read(numbers))


def _members(vectors: RankedVectors, chosen: Numbers, margin: float) -> list[Numbers]:
    """Return the members of each cell that has at least two."""
    centers = _centers(vectors, chosen)  # (cells, E)
    parts = []
    for numbers, block in vectors.blocks(chosen):
        products = block @ centers.T
        is_near = products >= products.max(axis=1, keepdims=True) - margin
        rows, cells = np.nonzero(is_near)
        parts.append((numbers[rows].astype(np.int32), cells.astype(np.int32)))
    members, cells = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((members, cells))
    members, cells = members[order].astype(np.int64), cells[order]
    borders = np.flatnonzero(np.diff(cells)) + 1
    return [cell for cell in np.split(members, borders) if len(cell) > 1]


def _centers(vectors: RankedVectors, chosen: Numbers) -> Embeddings:
    """Return the cells' centers, unit length: k-means of a sample."""
    import faiss

    num_cells = max(1, min(len(chosen), int(_CELLS_PER_ROOT * len(chosen) ** 0.5)))
    step = max(1, len(chosen) // (_SAMPLES_PER_CELL * num_cells))
    sample = vectors.read(chosen[::step])
    kmeans = faiss.Kmeans(
        vectors.embed_dim,
        num_cells,
        niter=_ROUNDS,
        spherical=True,
        seed=_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample),  # of all that were read
    )
    kmeans.train(sample)
    return np.asarray(kmeans.centroids, np.float32)


@dataclass(frozen=True)
class NearPairs:
    """Pairs of images whose vectors are near; a pair may be there twice.

    Attributes:
        earlier: (P,) int64, the number of the pair's preferred image.
        later: (P,) int64, of the other.
        scores: (P,) float32, their cosine.
        may_be_equal: (R,) bool: there is an image of the same width and height with nearly the
            same vector.
        is_crowded: (R,) bool: not all near ones that are preferred to it are among the pairs.
    """

    earlier: Numbers
    later: Numbers
    scores: NDArray[np.float32]
    may_be_equal: NDArray[np.bool_]
    is_crowded: NDArray[np.bool_]

    def among(self, usable: NDArray[np.bool_]) -> NearPairs:
        """Return the pairs of which both images are usable; (R,) bool."""
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
    checkpoint: Checkpoint = do_nothing,
) -> NearPairs:
    """Find the pairs with a cosine of at least the threshold.

    Of the near ones that are preferred to an image the most preferred `MAX_PARTNERS` are kept, so
    that a crowd of alike images agrees on which is the best of them. Of more than `MAX_EXACT`
    images only those that share a cell are compared: of 1000 pairs about one is missed.

    Args:
        index: the index.
        images: of `index`, under the same condition.
        chosen: (C,) ascending; only these take part.
        threshold: the lowest cosine.
        where: the condition that `images` was made with.
        checkpoint: is called between blocks.
    """
    comparison = _Comparison(images.shapes, threshold, checkpoint)
    vectors = RankedVectors(index, images, where, checkpoint)
    if len(chosen) <= MAX_EXACT:
        comparison.compare(chosen, vectors.read(chosen))
        return comparison.result()
    for group in iter_cell_groups(vectors, chosen, comparison.floor):
        for members in group.cells:
            for start in range(0, len(members), MAX_EXACT):  # all is one cell, if all are alike
                part = members[start : start + MAX_EXACT]
                comparison.compare(part, group.vectors[group.places(part)])
            if len(members) > MAX_EXACT:
                comparison.is_crowded[members] = True
    return comparison.result()


class _Comparison:
    """Compares sets of images, and gathers the near pairs of them all."""

    def __init__(self, shapes: Numbers, threshold: float, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.floor: Final = min(threshold, SAME_IMAGE)
        self.is_crowded: Final = np.zeros(len(shapes), np.bool_)
        self._threshold = threshold
        self._shapes = shapes
        self._may_be_equal = np.zeros(len(shapes), np.bool_)
        self._parts: list[tuple[Numbers, Numbers, NDArray[np.float32]]] = []

    def compare(self, numbers: Numbers, vectors: Embeddings) -> None:
        """Compare each image with all that are preferred to it, those in their order.

        Args:
            numbers: (C,) ascending.
            vectors: (C, E) float32, unit length.
        """
        for first in range(0, len(vectors), _BLOCK):
            block = vectors[first : first + _BLOCK]
            num_partners = np.zeros(len(block), np.int64)
            for start in range(0, first + 1, _BLOCK):
                self._checkpoint()
                products = block @ vectors[start : start + _BLOCK].T
                if start == first:
                    products[np.triu_indices(len(block))] = -np.inf  # itself, and pairs seen twice
                rows, columns = np.nonzero(products >= self.floor)
                scores = np.minimum(products[rows, columns], 1)
                earlier, later = numbers[start + columns], numbers[first + rows]
                self._note_equal(earlier, later, scores)
                is_near = scores >= self._threshold
                fits = _first_few(rows, is_near, num_partners)
                self._parts.append((earlier[fits], later[fits], scores[fits]))
                self.is_crowded[later[is_near & ~fits]] = True

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
    """Return which near pairs are among the first `MAX_PARTNERS` of their row, and count them.

    Args:
        rows: (P,) ascending, the pairs' rows in the block.
        is_near: (P,) bool; the others do not count.
        num_partners: (B,) how many each row of the block has already; added to.
    """
    before: Numbers = np.cumsum(is_near) - is_near  # near pairs of all rows before each pair
    of_row: Numbers = before - before[np.searchsorted(rows, rows)]
    fits = is_near & (num_partners[rows] + of_row < MAX_PARTNERS)
    num_partners += np.bincount(rows[fits], minlength=len(num_partners))
    return fits


class StarCover(NamedTuple):
    """For each of R numbers, (R,) int64 the kept one it belongs to, and (R,) float32 its score."""

    kept: Numbers
    scores: NDArray[np.float32]


def find_star_cover(
    first: Numbers,
    second: Numbers,
    scores: NDArray[np.float32],
    num_items: int,
    checkpoint: Checkpoint = do_nothing,
) -> StarCover:
    """Choose what is kept.

    Args:
        first: (P,) int64, one end of each pair; pairs may repeat or join an item to itself.
        second: (P,) int64, the other end.
        scores: (P,) float32.
        num_items: how many items there are; a smaller number is preferred.
        checkpoint: is called between blocks of pairs.

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
            checkpoint()
        item, partner = later[place], earlier[place]
        if kept[item] == item and kept[partner] == partner:
            kept[item] = partner
            best[item] = scores[place]
    return StarCover(kept, best)
