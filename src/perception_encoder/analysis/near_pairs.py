"""Which pictures of a table lie near each other: pairs of numbers, never a matrix of all pairs.

Up to `MAX_EXACT` pictures every two are compared, block by block: R² · E / 2 multiplications (under
a minute for 50,000 vectors of E = 1024 on two cores), R · E · 4 bytes of vectors and a few blocks.
Beyond that each is looked up by the index's approximate search: R queries, and no vectors held. Of
each picture at most `MAX_PARTNERS` pairs are kept: 12 bytes each. Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.preference import Numbers, RankedPictures
from perception_encoder.index import Hit, Index
from perception_encoder.index.digests import DigestMap, digests_of
from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.types import Embeddings

MAX_EXACT: Final = 50_000
MAX_PARTNERS: Final = 64

SAME_PICTURE: Final = 0.99
"""Equal pixels give equal vectors but for rounding: float16 in the table, bf16 in the engine, other
neighbours in the batch. All of it together stays far above this cosine."""

_BLOCK: Final = 2048  # pictures; a block of products has 16 MB


@dataclass(frozen=True)
class NearPairs:
    """Pairs of pictures whose vectors are near.

    Attributes:
        earlier: (P,) int64, the number of the pair's preferred picture.
        later: (P,) int64, of the other.
        scores: (P,) float32, their cosine.
        may_be_equal: (R,) bool: there is a picture of the same width and height with nearly the
            same vector.
        num_crowded: how many pictures have more near ones than were looked at.
    """

    earlier: Numbers
    later: Numbers
    scores: NDArray[np.float32]
    may_be_equal: NDArray[np.bool_]
    num_crowded: int

    def among(self, usable: NDArray[np.bool_]) -> NearPairs:
        """Return the pairs of which both pictures are usable; (R,) bool."""
        kept = usable[self.earlier] & usable[self.later]
        return NearPairs(
            self.earlier[kept],
            self.later[kept],
            self.scores[kept],
            self.may_be_equal & usable,
            self.num_crowded,
        )


def near_pairs(
    index: Index,
    pictures: RankedPictures,
    chosen: Numbers,
    *,
    threshold: float,
    where: str | None,
    max_exact: int = MAX_EXACT,
) -> NearPairs:
    """Find the pairs with a cosine of at least the threshold.

    Of a picture with more than `MAX_PARTNERS` near ones the exact way keeps the most preferred, so
    that a crowd of alike pictures agrees on which is the best of them; the approximate way keeps
    the nearest.

    Args:
        index: the table.
        pictures: of `index`, under the same condition.
        chosen: (C,) ascending; only these take part.
        threshold: the lowest cosine.
        where: the condition that `pictures` was made with.
        max_exact: with more chosen pictures the search is approximate.
    """
    collector = _Collector(pictures.shapes, threshold)
    if len(chosen) <= max_exact:
        _compare_all(index, pictures, chosen, where, collector)
    else:
        _look_up_all(index, pictures, chosen, where, collector)
    return collector.result()


class _Collector:
    """Takes pairs in as they are found, and notes which pictures may be equal."""

    def __init__(self, shapes: Numbers, threshold: float) -> None:
        self.floor: Final = min(threshold, SAME_PICTURE)
        self.threshold: Final = threshold
        self.is_crowded: Final = np.zeros(len(shapes), np.bool_)
        self._shapes = shapes
        self._may_be_equal = np.zeros(len(shapes), np.bool_)
        self._parts: list[tuple[Numbers, Numbers, NDArray[np.float32]]] = []

    def note_equal(self, ones: Numbers, others: Numbers, scores: NDArray[np.float32]) -> None:
        """Look for pairs that may be equal pictures."""
        is_same = (scores >= SAME_PICTURE) & (self._shapes[ones] == self._shapes[others])
        self._may_be_equal[ones[is_same]] = True
        self._may_be_equal[others[is_same]] = True

    def add(self, ones: Numbers, others: Numbers, scores: NDArray[np.float32]) -> None:
        """Keep near pairs."""
        self._parts.append((np.minimum(ones, others), np.maximum(ones, others), scores))

    def result(self) -> NearPairs:
        none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        earlier, later, scores = (
            np.concatenate(parts) for parts in zip(none, *self._parts, strict=True)
        )
        return NearPairs(earlier, later, scores, self._may_be_equal, int(self.is_crowded.sum()))


def _compare_all(
    index: Index,
    pictures: RankedPictures,
    chosen: Numbers,
    where: str | None,
    collector: _Collector,
) -> None:
    """Compare each picture with all that are preferred to it, those in their order."""
    vectors = _in_order(index, pictures, chosen, where)
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK]
        num_partners = np.zeros(len(block), np.int64)
        for start in range(0, first + 1, _BLOCK):
            products = block @ vectors[start : start + _BLOCK].T
            if start == first:
                products[np.triu_indices(len(block))] = -np.inf  # itself, and pairs seen twice
            rows, columns = np.nonzero(products >= collector.floor)
            scores = np.minimum(products[rows, columns], 1)
            numbers, partners = chosen[first + rows], chosen[start + columns]
            collector.note_equal(numbers, partners, scores)
            is_near = scores >= collector.threshold
            fits = _first_few(rows, is_near, num_partners)
            collector.add(numbers[fits], partners[fits], scores[fits])
            collector.is_crowded[numbers[is_near & ~fits]] = True


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


def _in_order(
    index: Index, pictures: RankedPictures, chosen: Numbers, where: str | None
) -> Embeddings:
    """Return (C, E) float32, the vectors of the chosen pictures in their order."""
    places = np.full(len(pictures), -1, np.int64)
    places[chosen] = np.arange(len(chosen))
    vectors = np.empty((len(chosen), index.identity.embed_dim), np.float32)
    start = 0
    for batch in index.scan([VECTOR], where=where):
        place = places[pictures.numbers[start : start + batch.num_rows]]
        start += batch.num_rows
        vectors[place[place >= 0]] = vectors_of(batch)[place >= 0]
    return vectors


def _look_up_all(
    index: Index,
    pictures: RankedPictures,
    chosen: Numbers,
    where: str | None,
    collector: _Collector,
) -> None:
    """Ask the index for the nearest of each picture."""
    number_of = DigestMap()
    number_of.add(pictures.ids, np.arange(len(pictures)))
    is_chosen = np.zeros(len(pictures), np.bool_)
    is_chosen[chosen] = True
    start = 0
    for batch in index.scan([VECTOR], where=where):
        numbers = pictures.numbers[start : start + batch.num_rows]
        start += batch.num_rows
        asked = is_chosen[numbers]
        found = index.search(
            vectors_of(batch)[asked],
            k=MAX_PARTNERS,
            where=where,
            threshold=collector.floor,
        )
        for number, hits in zip(numbers[asked].tolist(), found, strict=True):
            _add_hits(number, hits, number_of, is_chosen, collector)


def _add_hits(
    number: int,
    hits: list[Hit],
    number_of: DigestMap,
    is_chosen: NDArray[np.bool_],
    collector: _Collector,
) -> None:
    others = number_of.find(digests_of([hit.id for hit in hits]))
    scores = np.array([hit.score for hit in hits], np.float32)
    # Not itself, not copies (which are known already), not rows that came after the table was read.
    counts = (others >= 0) & (others != number) & is_chosen[others]
    others, scores = others[counts], scores[counts]
    itself = np.full_like(others, number)
    collector.note_equal(itself, others, scores)
    is_near = scores >= collector.threshold
    collector.add(itself[is_near], others[is_near], scores[is_near])
    if len(hits) == MAX_PARTNERS and hits[-1].score >= collector.threshold:
        collector.is_crowded[number] = True
