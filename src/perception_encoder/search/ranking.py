"""Searches an index: pages of hits, what shows the same folded, with labels."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.index import Hit, Index, MetadataValue
from perception_encoder.index.tiles import Box
from perception_encoder.search.calibration import Calibration, Cutoffs, Label
from perception_encoder.search.folding import fold_hits, fold_tiles, leave_out
from perception_encoder.search.photo_filters import TAKEN_AT, check_column
from perception_encoder.search.queries import Query
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    from PIL import Image

ScoreKind: TypeAlias = Literal["cosine", "bm25", "fusion", "rerank"]
"""What the score of a hit is."""

MAX_BURST_SECONDS: Final = 3600
_SHORTEST_LIST: Final = 64  # hits that are read at least; longer lists double


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Options of a search.

    Attributes:
        k: the most hits.
        offset: number of best hits to leave out, for pages after the first.
        threshold: the lowest cosine of a hit, or its lowest label.
        where: an SQL condition on the columns of the index.
        exact: compare with every embedding, also if the index has an approximate search.
        unique: the cosine from which a hit is folded under a better one; None folds none.
        bursts: the most seconds between photos that follow each other in a burst, which is folded;
            None folds none.
        pairs: fold the files that a camera writes of one shot: see `folding`.
        sort: the order of the hits of a page: best first, or the newest photo first, where hits
            without a time come last.
    """

    k: int = 10
    offset: int = 0
    threshold: float | Literal["strong", "weak"] | None = None
    where: str | None = None
    exact: bool = False
    unique: float | None = None
    bursts: float | None = None
    pairs: bool = True
    sort: Literal["score", "taken_at"] = "score"

    def __post_init__(self) -> None:
        if self.k < 1 or self.offset < 0:
            raise ValueError(
                f"k must be at least 1 and offset at least 0, got {self.k} and {self.offset}"
            )
        if isinstance(self.threshold, float | int) and not -1 <= self.threshold <= 1:
            raise ValueError(f"the threshold is a cosine from -1 to 1, got {self.threshold}")
        if self.unique is not None and not 0 < self.unique <= 1:
            raise ValueError(f"unique must be a cosine above 0 and at most 1, got {self.unique}")
        if self.bursts is not None and not 0 <= self.bursts <= MAX_BURST_SECONDS:
            raise ValueError(
                f"bursts must be from 0 to {MAX_BURST_SECONDS} seconds, got {self.bursts}"
            )

    @property
    def needs_vectors(self) -> bool:
        """Whether hits are folded by their embeddings."""
        return self.unique is not None or self.bursts is not None

    def fold(
        self, hits: Sequence[Hit], vectors: Mapping[str, Embeddings] | None, num_groups: int
    ) -> list[list[Hit]]:
        """Group hits by these options; see `fold_hits`."""
        return fold_hits(
            hits,
            num_groups=num_groups,
            vectors=vectors,
            unique=self.unique,
            bursts=self.bursts,
            pairs=self.pairs,
        )

    def check(self, index: Index) -> None:
        """Raise QueryError where an index lacks what is folded by."""
        if self.bursts is not None:
            check_column(index.schema, TAKEN_AT, index.path)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One result of a search.

    Attributes:
        hit: the image that was found.
        also: the hits that were folded under it, best first: near-duplicates, other files of the
            shot, and photos of the burst.
        label: how well it fits, by its cosine; None where that is not known.
        kind: what the score is: a cosine; BM25's for the text of the row; the fusion of the ranks
            by both; or the cosine by the model of `rerank`.
        cosine: with the query, from -1 to 1, by the index's model; None if there was only a text to
            search for.
        text_score: BM25's; None where the text was not found or not searched for.
    """

    hit: Hit
    also: tuple[Hit, ...] = ()
    label: Label | None = None
    kind: ScoreKind = "cosine"
    cosine: float | None = None
    text_score: float | None = None

    @property
    def uri(self) -> str:
        """The path or URL of the image, or of the archive that holds it."""
        return self.hit.uri

    @property
    def member(self) -> str | None:
        """The image's name inside an archive; None for a plain file."""
        return self.hit.member

    @property
    def box(self) -> Box | None:
        """The part of the image that was found, if the index has tiles; None for all of it."""
        return self.hit.box

    @property
    def score(self) -> float:
        """The score that ranks the hits, see `kind`; a cosine if no text was searched for."""
        return self.hit.score

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """What else the index knows of the image."""
        return self.hit.metadata

    def image(self) -> Image.Image:
        """Load the image: upright, RGB.

        Raises:
            ImageError: the image is gone or cannot be read.
        """
        from perception_encoder.sources import load_image

        return load_image(self.hit)


def search_index(
    index: Index,
    queries: Sequence[Query],
    options: SearchOptions,
    *,
    calibration: Calibration | None = None,
    leave_out_own: bool = False,
) -> list[list[SearchResult]]:
    """Find the nearest rows of each query, best first. All queries are searched for together.

    Args:
        index: the index.
        queries: the queries, from `read_queries`.
        options: see `SearchOptions`.
        calibration: of the index; None gives no labels.
        leave_out_own: whether to leave out the items and files that a query names.

    Raises:
        QueryError: the condition is wrong, or the threshold is a label and there is no calibration.
    """
    options.check(index)
    cutoffs = [calibration.cutoffs(query) if calibration else None for query in queries]
    floors = [find_floor(options.threshold, limits) for limits in cutoffs]
    wanted = options.offset + options.k
    own = [query.own if leave_out_own else frozenset[str]() for query in queries]
    groups: list[list[list[Hit]]] = [[] for _ in queries]
    left = list(range(len(queries)))
    # Approximate search finds other rows at another depth; all pages are cut from one list.
    depth = _SHORTEST_LIST
    while depth < wanted + max(map(len, own), default=0):
        depth *= 2
    while left:
        vectors = np.stack([queries[number].vector for number in left])
        found = index.search(
            vectors,
            k=depth,
            where=options.where,
            threshold=min(floors[number] for number in left),
            exact=options.exact,
        )
        ranked = [
            [
                hit
                for hit in leave_out(fold_tiles(hits), own[number], pairs=options.pairs)
                if hit.score >= floors[number]
            ]
            for number, hits in zip(left, found, strict=True)
        ]
        for number, made in zip(left, _group(index, ranked, options, wanted), strict=True):
            groups[number] = made
        # If folded hits fill the list, a longer one is read.
        left = [
            number
            for number, hits in zip(left, found, strict=True)
            if len(groups[number]) < wanted
            and len(hits) == depth
            and hits[-1].score >= floors[number]
        ]
        depth *= 2
    results = [
        [_build_result(group, limits) for group in made[options.offset : wanted]]
        for made, limits in zip(groups, cutoffs, strict=True)
    ]
    return results if options.sort == "score" else [sort_newest_first(found) for found in results]


def sort_newest_first(results: Sequence[SearchResult]) -> list[SearchResult]:
    """Return hits by the time of the photo; those without one come last."""

    def key(result: SearchResult) -> tuple[bool, datetime.datetime]:
        time = result.metadata.get(TAKEN_AT)
        is_time = isinstance(time, datetime.datetime)
        return is_time, time if isinstance(time, datetime.datetime) else datetime.datetime.min

    return sorted(results, key=key, reverse=True)  # stable: of one time the best comes first


def _build_result(group: Sequence[Hit], cutoffs: Cutoffs | None) -> SearchResult:
    label = None if cutoffs is None else cutoffs.label(group[0].score)
    return SearchResult(group[0], tuple(group[1:]), label, cosine=group[0].score)


def find_floor(
    threshold: float | Literal["strong", "weak"] | None, cutoffs: Cutoffs | None
) -> float:
    """Return the lowest cosine of a hit; -inf if there is no threshold."""
    if threshold is None:
        return -np.inf
    if not isinstance(threshold, str):
        return threshold
    if cutoffs is None:
        raise QueryError(
            f"hits of this index have no labels, so that {threshold!r} cannot be the threshold: "
            "it has too few images, or is not on this machine; give a cosine"
        )
    return cutoffs.strong if threshold == "strong" else cutoffs.weak


def _group(
    index: Index, ranked: Sequence[Sequence[Hit]], options: SearchOptions, num_groups: int
) -> list[list[list[Hit]]]:
    if not options.needs_vectors:
        return [options.fold(hits, None, num_groups) for hits in ranked]
    rows = index.by_ids(hit.id for hits in ranked for hit in hits)
    vectors = {key: vector for key, (_, vector) in rows.items()}
    return [options.fold(hits, vectors, num_groups) for hits in ranked]
