"""Searches by the text of rows, alone or together with an embedding.

Both rankings are joined by reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): a row
at rank r of a ranking gets 1 / (60 + r), which needs no common scale of cosines and BM25 scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.index import Hit, Index
from perception_encoder.index.condition import MAX_CONDITION_VALUES
from perception_encoder.index.full_text import TextQuery
from perception_encoder.search.calibration import Calibration
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
_SHORTEST_LIST: Final = 512  # hits of each ranking; all pages within it are cut from one list
_LONGER: Final = 4
_DIGITS: Final = 5  # of scores that count as equal


@dataclass(frozen=True, slots=True)
class _Scored:
    """A row with its scores so far."""

    hit: Hit
    vector: Embeddings
    cosine: float | None = None
    text_score: float | None = None


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
        by_text = _find_texts(index, text, options.where, depth, query)
        num_found = len(by_text)
        ranked = [one for one in by_text if one.hit.id not in own]
        if query is not None:
            near = _find_near(index, query, options, depth)
            is_full = num_found == depth
            num_found = max(num_found, len(near))
            near = [one for one in near if one.hit.id not in own]
            if is_full:
                ranked = _complete_texts(index, text, ranked, near, query)
            ranked = _fuse(_above(ranked, floor), _above(near, floor), text_weight)
        groups = _group(ranked, options, wanted)
        if len(groups) >= wanted or num_found < depth:  # folded hits may fill the list
            break
        depth *= _LONGER
    scored = {one.hit.id: one for one in ranked}
    found = [
        SearchResult(
            group[0],
            tuple(group[1:]),
            None if cutoffs is None else cutoffs.label(scored[group[0].id].cosine or 0.0),
            kind="bm25" if query is None else "fusion",
            cosine=scored[group[0].id].cosine,
            text_score=scored[group[0].id].text_score,
        )
        for group in groups[options.offset : wanted]
    ]
    return found if options.sort == "score" else sort_newest_first(found)


def _find_texts(
    index: Index, text: TextQuery, where: str | None, depth: int, query: Query | None
) -> list[_Scored]:
    found = index.search_text(text, limit=depth, where=where)
    if query is None:
        return [_Scored(hit, vector, text_score=hit.score) for hit, vector in found]
    return [_Scored(hit, vector, float(vector @ query.vector), hit.score) for hit, vector in found]


def _complete_texts(
    index: Index, text: TextQuery, by_text: list[_Scored], near: Sequence[_Scored], query: Query
) -> list[_Scored]:
    """Add the near rows that hold the text to a list that was full without them.

    Thousands of rows may have one score, such as the images of a folder of that name.
    """
    known = {one.hit.id for one in by_text}
    ids = [one.hit.id for one in near if one.hit.id not in known]
    if not ids:
        return by_text
    ids = ids[:MAX_CONDITION_VALUES]
    lowest = by_text[-1].text_score if by_text else None
    quoted = ", ".join(f"'{key}'" for key in ids)
    found = _find_texts(index, text, f"id IN ({quoted})", len(ids), query)
    if lowest is not None:  # filtered rows may be scored by other statistics
        found = [replace(one, text_score=min(one.text_score or 0.0, lowest)) for one in found]
    return by_text + found


def _find_near(index: Index, query: Query, options: SearchOptions, depth: int) -> list[_Scored]:
    (hits,) = index.search(
        query.vector[np.newaxis], k=depth, where=options.where, exact=options.exact
    )
    nothing = np.empty(0, np.float32)
    if not options.needs_vectors:
        return [_Scored(hit, nothing, hit.score) for hit in hits]
    rows = index.by_ids(hit.id for hit in hits)
    return [_Scored(hit, rows[hit.id][1], hit.score) for hit in hits]


def _above(ranking: Sequence[_Scored], floor: float) -> list[_Scored]:
    return [one for one in ranking if one.cosine is not None and one.cosine >= floor]


def _fuse(by_text: Sequence[_Scored], near: Sequence[_Scored], text_weight: float) -> list[_Scored]:
    """Join two rankings; hits of equal score are ordered by uri and member."""
    scores: dict[str, float] = {}
    scored: dict[str, _Scored] = {}
    best = 1 / (_RANK_CONSTANT + 1)
    for ranking, weight in ((near, 1 - text_weight), (by_text, text_weight)):
        for rank, one in zip(_ranks(ranking), ranking, strict=True):
            key = one.hit.id
            scores[key] = scores.get(key, 0.0) + weight / (_RANK_CONSTANT + rank) / best
            known = scored.get(key, one)
            scored[key] = replace(
                known,
                vector=one.vector if len(one.vector) else known.vector,
                text_score=one.text_score,
            )
    fused = [
        replace(one, hit=replace(one.hit, score=scores[key]))
        for key, one in scored.items()
        if scores[key] > 0
    ]
    return sorted(fused, key=lambda one: (-one.hit.score, one.hit.uri, one.hit.member or ""))


def _ranks(ranking: Sequence[_Scored]) -> list[int]:
    """Return the ranks of rows, best first; rows of equal score have the best rank of them."""
    scores = [round(one.text_score or one.hit.score, _DIGITS) for one in ranking]
    ranks = list(range(1, len(scores) + 1))
    for place in range(1, len(scores)):
        if scores[place] == scores[place - 1]:
            ranks[place] = ranks[place - 1]
    return ranks


def _group(ranked: Sequence[_Scored], options: SearchOptions, num_groups: int) -> list[list[Hit]]:
    hits = [one.hit for one in ranked]
    vectors = {one.hit.id: one.vector for one in ranked} if options.needs_vectors else None
    return options.fold(hits, vectors, num_groups)
