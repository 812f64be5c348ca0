"""Relevance feedback: a query moves towards images that are marked as liked, away from others.

    q' = q + √n · (2 · mean(liked) - 0.5 · mean(unliked))      n = number of liked images
    q' = q - 0.2 · mean(unliked)                               none is liked

This is Rocchio's rule ("Relevance feedback in information retrieval", 1971), except that liked
images count the more the more there are: their mean is then surer than the query. It gives one
embedding, so that feedback works with approximate search, texts, filters and folding. Rules and
weights were chosen by measurement: `benchmarks/feedback.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.search.grammar import combine_vectors
from perception_encoder.search.queries import Query

MAX_MARKS: Final = 200
"""Liked and unliked images of one query."""

_LIKED: Final = 2.0
_UNLIKED: Final = 0.5
_UNLIKED_ALONE: Final = 0.2


def refine_query(query: Query | None, like: Sequence[Query], unlike: Sequence[Query]) -> Query:
    """Return a query that takes marks into account.

    Args:
        query: what was searched for; None searches by the marks alone.
        like: one query for each image that more hits should be like.
        unlike: one query for each image that hits should not be like.

    Returns:
        The query. Its `own` are the marked images, so that they can be left out.

    Raises:
        QueryError: no marks and no query, too many marks, one image is marked both ways, or the
            marks cancel each other out.
    """
    if len(like) + len(unlike) > MAX_MARKS:
        raise QueryError(f"{len(like) + len(unlike)} images are marked; {MAX_MARKS} is the limit")
    both = _ids(like) & _ids(unlike)
    if both:
        raise QueryError("an image is marked as liked and as unliked; leave one of the marks")
    growth = len(like) ** 0.5
    away = _UNLIKED * growth if like else _UNLIKED_ALONE
    parts = [] if query is None else [(1.0, query)]
    parts += [(_LIKED * growth / len(like), one) for one in like]
    parts += [(-away / len(unlike), one) for one in unlike]
    if not parts:
        raise QueryError("the query is empty; give a text, an image, or mark images")
    return Query(
        terms=tuple(
            replace(term, weight=weight * term.weight)
            for weight, one in parts
            for term in one.terms
        ),
        vector=combine_vectors(
            np.stack([one.vector for _, one in parts]), [weight for weight, _ in parts]
        ),
        own=frozenset[str]().union(*(one.own for _, one in parts)),
        image=next((one.image for _, one in parts if one.image is not None), None),
    )


def _ids(queries: Sequence[Query]) -> frozenset[str]:
    return frozenset[str]().union(*(one.own for one in queries))
