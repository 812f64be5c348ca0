"""Searches an index: pages of hits, near-duplicates folded, with labels."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.index import Hit, Index, MetadataValue
from perception_encoder.search.calibration import Calibration, Cutoffs, Label
from perception_encoder.search.photo_filters import TAKEN_AT
from perception_encoder.search.queries import Query
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    from PIL import Image

ScoreKind: TypeAlias = Literal["cosine", "bm25", "fusion"]
"""What the score of a hit is."""

_ROUNDING: Final = 5e-4  # of a cosine of float16 vectors
_SHORTEST_LIST: Final = 64  # hits that are read at least; longer lists double


def fold_near_duplicates(
    hits: Sequence[Hit], vectors: Mapping[str, Embeddings], *, cosine: float, num_groups: int
) -> list[list[Hit]]:
    """Group near-duplicates and identical files.

    Args:
        hits: the hits, best first.
        vectors: the (E,) unit vector of each hit, by its id.
        cosine: the lowest cosine of near-duplicates.
        num_groups: the most groups; hits that would begin another one are dropped.

    Returns:
        The groups, best first, and in each the best hit first.
    """
    floor = cosine - _ROUNDING
    groups: list[list[Hit]] = []
    leaders = np.empty((num_groups, len(next(iter(vectors.values()), ()))), np.float32)
    contents: dict[str, int] = {}
    for hit in hits:
        place = contents.get(hit.sha256) if hit.sha256 is not None else None
        if place is None:
            near = np.flatnonzero(leaders[: len(groups)] @ vectors[hit.id] >= floor)
            place = int(near[0]) if near.size else None
        if place is not None:
            groups[place].append(hit)
        elif len(groups) < num_groups:
            leaders[len(groups)] = vectors[hit.id]
            place = len(groups)
            groups.append([hit])
        if place is not None and hit.sha256 is not None:
            contents.setdefault(hit.sha256, place)
    return groups


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Options of a search.

    Attributes:
        k: the most hits.
        offset: number of best hits to leave out, for pages after the first.
        threshold: the lowest cosine of a hit, or its lowest label.
        where: an SQL condition on the columns of the index.
        exact: compare with every embedding, also if the index has an approximate search.
        unique: the cosine from which a hit is folded under a better one; None folds nothing.
        sort: the order of the hits of a page: best first, or the newest photo first, where hits
            without a time come last.
    """

    k: int = 10
    offset: int = 0
    threshold: float | Literal["strong", "weak"] | None = None
    where: str | None = None
    exact: bool = False
    unique: float | None = None
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


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One result of a search.

    Attributes:
        hit: the image that was found.
        also: near-duplicates that were folded under it, best first.
        label: how well it fits, by its cosine; None where that is not known.
        kind: what the score is: a cosine; BM25's for the text of the row; or the fusion of the
            ranks by both.
        cosine: with the query, from -1 to 1; None if there was only a text to search for.
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
            [hit for hit in hits if hit.id not in own[number] and hit.score >= floors[number]]
            for number, hits in zip(left, found, strict=True)
        ]
        for number, made in zip(left, _group(index, ranked, options.unique, wanted), strict=True):
            groups[number] = made
        # If near-duplicates fill the list, a longer one is read.
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
    index: Index, ranked: Sequence[Sequence[Hit]], unique: float | None, num_groups: int
) -> list[list[list[Hit]]]:
    if unique is None:
        return [[[hit] for hit in hits[:num_groups]] for hits in ranked]
    rows = index.by_ids(hit.id for hits in ranked for hit in hits)
    vectors = {key: vector for key, (_, vector) in rows.items()}
    return [
        fold_near_duplicates(hits, vectors, cosine=unique, num_groups=num_groups) for hits in ranked
    ]
