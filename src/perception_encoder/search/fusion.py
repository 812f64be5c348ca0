"""Searches by the text of rows, alone or together with an embedding.

Both rankings are joined by reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): a row
at rank r of a ranking gets 1 / (60 + r), which needs no common scale of cosines and BM25 scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.index import Hit, Index
from perception_encoder.index.condition import MAX_CONDITION_VALUES
from perception_encoder.index.full_text import TextMatch, TextQuery
from perception_encoder.index.nearest import NearestHit
from perception_encoder.index.searcher.files import RESULT_COUNTS
from perception_encoder.search.calibration import Calibration, Cutoffs
from perception_encoder.search.folding import fold_tiles, leave_out
from perception_encoder.search.queries import Query
from perception_encoder.search.ranking import (
    SearchOptions,
    SearchResult,
    find_floor,
    search_index,
    sort_newest_first,
)
from perception_encoder.types import Embeddings

DEFAULT_TEXT_WEIGHT: Final = 0.5
"""Share of the text in a fused score: both rankings count alike."""

_RANK_CONSTANT: Final = 60
_SHORTEST_LIST: Final = max(RESULT_COUNTS)
"""Rows of each ranking; all pages within it are cut from one list. Approximate search is tuned for
so many; beyond them every embedding is compared."""
_TEXTS: Final = 16  # times as many rows of the text, whose scores are cheap
_LONGER: Final = 4
_DIGITS: Final = 5  # of scores that count as equal


def search(
    index: Index,
    query: Query | None,
    options: SearchOptions,
    *,
    text: TextQuery | None = None,
    text_weight: float = DEFAULT_TEXT_WEIGHT,
    calibration: Calibration | None = None,
    leave_out_own: bool = False,
) -> list[SearchResult]:
    """Find the rows near an embedding, the rows that hold a text, or both fused.

    Args:
        index: the index.
        query: what the images should be near to; None searches by the text alone.
        options: see `SearchOptions`; the threshold is one of cosines.
        text: the words and phrases; None searches by the embedding alone.
        text_weight: share of the text in a fused score, from 0 to 1.
        calibration: of the index; labels come from cosines, so it needs a query.
        leave_out_own: whether to leave out the items and files that the query names.

    Returns:
        Hits, best first. `SearchResult.kind` says what their scores are. A fused score is from 0 to
        1: 1 is the first of both rankings.

    Raises:
        QueryError: the condition is wrong; a threshold is given without a query; or the index was
            made before texts were stored.
        ValueError: neither a query nor a text, or the weight is out of range.
    """
    if text is not None:
        return _search_by_text(
            index, text, options, query, text_weight, calibration, leave_out_own=leave_out_own
        )
    if query is None:
        raise ValueError("give a query, or a text, or both")
    (found,) = search_index(
        index, [query], options, calibration=calibration, leave_out_own=leave_out_own
    )
    return found


def _search_by_text(
    index: Index,
    text: TextQuery,
    options: SearchOptions,
    query: Query | None,
    text_weight: float,
    calibration: Calibration | None,
    *,
    leave_out_own: bool,
) -> list[SearchResult]:
    if not 0 <= text_weight <= 1:
        raise ValueError(f"the weight of the text is from 0 to 1, got {text_weight}")
    options.check(index)
    if query is None and options.threshold is not None:
        raise QueryError(
            "a threshold is a cosine, which a search by text alone does not have; leave it out"
        )
    cutoffs = calibration.cutoffs(query) if calibration and query else None
    floor = find_floor(options.threshold, cutoffs)
    own = query.own if query is not None and leave_out_own else frozenset[str]()
    wanted = options.offset + options.k
    depth = _SHORTEST_LIST
    while depth < wanted + len(own):
        depth *= _LONGER
    while True:
        rankings = _Rankings(index, text, query, options, depth)
        ranked = rankings.fuse(text_weight, floor) if query is not None else rankings.by_text()
        groups = rankings.group(ranked[:depth], own, wanted)
        is_all = rankings.are_complete and len(ranked) <= depth
        if len(groups) >= wanted or is_all:  # folded hits may fill the list
            break
        depth *= _LONGER
    page = groups[options.offset : wanted]
    found = [rankings.result(group, cutoffs) for group in page]
    return found if options.sort == "score" else sort_newest_first(found)


class _Ranked(NamedTuple):
    """A row, by Lance's id of it, and the score that ranks it."""

    row_id: int
    score: float


class _Rankings:
    """The best rows by an embedding, and by a text.

    Rows are told apart by Lance's ids: reading our own ids of thousands of rows takes longer than
    ranking them.
    """

    def __init__(
        self,
        index: Index,
        text: TextQuery,
        query: Query | None,
        options: SearchOptions,
        depth: int,
    ) -> None:
        self._index = index
        self._query = query
        self._options = options
        limit = depth if query is None else depth * _TEXTS
        texts = index.rank_text(text, limit=limit, where=options.where)
        self._near: list[_Ranked] = []
        self._hits: dict[int, Hit] = {}
        self.are_complete = len(texts) < limit
        if query is not None:
            (near,) = index.search_rows(
                query.vector[np.newaxis], k=depth, where=options.where, exact=options.exact
            )
            images = _fold_tiles(index, near)
            self._near = [_Ranked(one.row_id, one.hit.score) for one in images]
            self._hits = {one.row_id: one.hit for one in images}
            if len(texts) == limit:
                texts += self._missing(texts, text)
            self.are_complete = self.are_complete and len(near) < depth
        self._texts = {one.row_id: one.score for one in texts}
        self._vectors: dict[int, Embeddings] = {}
        self._row_ids: dict[str, int] = {}  # of grouped hits, by our ids

    def _missing(self, texts: Sequence[TextMatch], text: TextQuery) -> list[TextMatch]:
        """Return near rows that hold the text, but are not in a list that was full without them.

        Thousands of rows may have one score, such as the images of a folder of that name.
        """
        known = {one.row_id for one in texts}
        row_ids = [one.row_id for one in self._near if one.row_id not in known]
        row_ids = row_ids[:MAX_CONDITION_VALUES]
        if not row_ids:
            return []
        found = self._index.rank_text(text, limit=len(row_ids), row_ids=row_ids)
        # Rows that a condition chooses may be scored by other statistics.
        return [one._replace(score=min(one.score, texts[-1].score)) for one in found]

    def by_text(self) -> list[_Ranked]:
        """Return the rows that hold the text, best first."""
        return [_Ranked(*one) for one in self._texts.items()]

    def fuse(self, text_weight: float, floor: float) -> list[_Ranked]:
        """Join both rankings. Of equal scores, rows that hold the text come first."""
        near = [one for one in self._near if one.score >= floor]
        texts = self.by_text()
        if floor > -1:
            self.load(texts)
            texts = [one for one in texts if self._cosine(one.row_id) >= floor]
        scores: dict[int, float] = {}
        for ranking, weight in ((texts, text_weight), (near, 1 - text_weight)):
            for rank, one in zip(_ranks(ranking), ranking, strict=True):
                share = weight * (_RANK_CONSTANT + 1) / (_RANK_CONSTANT + rank)
                scores[one.row_id] = scores.get(one.row_id, 0.0) + share
        fused = [_Ranked(*one) for one in scores.items() if one[1] > 0]
        return sorted(fused, key=lambda one: -one.score)  # stable: texts first, then the nearest

    def group(
        self, ranked: Sequence[_Ranked], own: frozenset[str], num_groups: int
    ) -> list[list[Hit]]:
        """Leave out the query's own items, and fold hits by the options of the search."""
        self.load(ranked)
        ranked = [one for one in ranked if one.row_id in self._hits]
        vectors = None
        if self._options.needs_vectors:
            lacking = [one.row_id for one in ranked if one.row_id not in self._vectors]
            found = self._index.rows_with_vectors(lacking)
            self._vectors |= {key: vector for key, (_, vector) in found.items()}
            vectors = {
                self._hits[one.row_id].id: self._vectors[one.row_id]
                for one in ranked
                if one.row_id in self._vectors
            }
        self._row_ids = {self._hits[one.row_id].id: one.row_id for one in ranked}
        hits = [replace(self._hits[one.row_id], score=one.score) for one in ranked]
        others = leave_out(hits, own, pairs=self._options.pairs)
        return self._options.fold(others, vectors, num_groups)

    def result(self, group: Sequence[Hit], cutoffs: Cutoffs | None) -> SearchResult:
        """Return the result of a group of hits, the best first."""
        row_id = self._row_ids[group[0].id]
        cosine = None if self._query is None else self._cosine(row_id)
        return SearchResult(
            group[0],
            tuple(group[1:]),
            None if cutoffs is None or cosine is None else cutoffs.label(cosine),
            kind="bm25" if self._query is None else "fusion",
            cosine=cosine,
            text_score=self._texts.get(row_id),
        )

    def _cosine(self, row_id: int) -> float:
        hit = self._hits.get(row_id)
        return -1.0 if hit is None else hit.score

    def load(self, ranked: Iterable[_Ranked]) -> None:
        """Read the rows that only the text has found; their score is the cosine."""
        row_ids = [one.row_id for one in ranked if one.row_id not in self._hits]
        for key, (row, vector) in self._index.rows_with_vectors(row_ids).items():
            cosine = 0.0 if self._query is None else float(vector @ self._query.vector)
            self._hits[key] = Hit.of(row, cosine)
            self._vectors[key] = vector


def _fold_tiles(index: Index, near: Sequence[NearestHit]) -> Sequence[NearestHit]:
    """As `fold_tiles`, with Lance's ids of the images, by which texts find them."""
    if index.tiles is None:
        return near
    hits = fold_tiles([one.hit for one in near])
    row_ids = index.row_ids(hit.id for hit in hits)
    return [NearestHit(row_ids[hit.id], hit) for hit in hits if hit.id in row_ids]


def _ranks(ranking: Sequence[_Ranked]) -> list[int]:
    """Return the ranks of rows, best first; rows of equal score have the best rank of them."""
    scores = [round(one.score, _DIGITS) for one in ranking]
    ranks = list(range(1, len(scores) + 1))
    for place in range(1, len(scores)):
        if scores[place] == scores[place - 1]:
            ranks[place] = ranks[place - 1]
    return ranks
