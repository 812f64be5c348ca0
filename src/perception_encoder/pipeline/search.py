"""Answers queries from a table: pages of hits, copies folded, scores with their meaning.

Knows nothing of how queries are written or embedded; that is in `queries`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from perception_encoder.index import Hit, Index
from perception_encoder.pipeline.folding import fold
from perception_encoder.pipeline.queries import Query

SAME: Final = 0.95
"""The cosine from which on two pictures count as near-duplicates, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Which hits are wanted.

    Attributes:
        k: how many, at most.
        offset: how many of the best to leave out, for the pages after the first.
        threshold: the lowest cosine of a hit.
        where: an SQL condition on the table's columns.
        exact: look at every vector, also where the table has a faster way.
        unique: the cosine from which on a hit is folded under a better one; None folds nothing.
    """

    k: int = 10
    offset: int = 0
    threshold: float | None = None
    where: str | None = None
    exact: bool = False
    unique: float | None = None

    def __post_init__(self) -> None:
        if self.k < 1 or self.offset < 0:
            raise ValueError(
                f"k must be at least 1 and offset at least 0, got {self.k} and {self.offset}"
            )
        if self.unique is not None and not 0 < self.unique <= 1:
            raise ValueError(f"unique must be a cosine above 0 and at most 1, got {self.unique}")


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, and those that were folded under it, best first."""

    hit: Hit
    also: tuple[Hit, ...] = ()


def search(
    index: Index,
    queries: Sequence[Query],
    options: SearchOptions,
    *,
    leave_out_own: bool = False,
) -> list[list[Found]]:
    """Find the nearest rows of each query, best first, with one search of the table for all.

    Args:
        index: the table.
        queries: from `read_queries`.
        options: which hits are wanted.
        leave_out_own: the items and files that a query names are no hits of it.

    Raises:
        QueryError: the condition is wrong.
    """
    wanted = options.offset + options.k
    own = [query.own if leave_out_own else frozenset[str]() for query in queries]
    groups: list[list[list[Hit]]] = [[] for _ in queries]
    left = list(range(len(queries)))
    depth = wanted + max(map(len, own), default=0)
    while left:
        if options.unique is not None:
            depth *= 2
        vectors = np.stack([queries[number].vector for number in left])
        found = index.search(
            vectors,
            k=depth,
            where=options.where,
            threshold=options.threshold,
        )
        ranked = [
            [hit for hit in hits if hit.id not in own[number]]
            for number, hits in zip(left, found, strict=True)
        ]
        for number, made in zip(left, _grouped(index, ranked, options.unique, wanted), strict=True):
            groups[number] = made
        # Where copies take up the ranking, it is followed further down.
        left = [
            number
            for number, hits in zip(left, found, strict=True)
            if len(groups[number]) < wanted and len(hits) == depth
        ]
    return [
        [Found(group[0], tuple(group[1:])) for group in made[options.offset : wanted]]
        for made in groups
    ]


def _grouped(
    index: Index, ranked: Sequence[Sequence[Hit]], unique: float | None, num_groups: int
) -> list[list[list[Hit]]]:
    if unique is None:
        return [[[hit] for hit in hits[:num_groups]] for hits in ranked]
    rows = index.by_ids(hit.id for hits in ranked for hit in hits)
    vectors = {key: vector for key, (_, vector) in rows.items()}
    return [fold(hits, vectors, cosine=unique, num_groups=num_groups) for hits in ranked]
