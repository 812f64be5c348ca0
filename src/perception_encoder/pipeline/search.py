"""Answers a query in words, pictures or sums of both from a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Hit, Index, QueryTerm, combine, parse_query
from perception_encoder.types import Embeddings


@dataclass(frozen=True, slots=True)
class Query:
    """A query as it was understood, and its (1, E) unit vector."""

    terms: tuple[QueryTerm, ...]
    vector: Embeddings

    @property
    def text(self) -> str:
        """The words of the query, with their signs and weights, without its pictures."""
        words = [term for term in self.terms if term.kind == "text"]
        return " ".join(_shown(term, is_first=term is self.terms[0]) for term in words)

    @property
    def image(self) -> str | None:
        """The first picture of the query."""
        return next((term.value for term in self.terms if term.kind == "image"), None)


def read_query(model: EmbeddingModel, query: str | Sequence[str]) -> Query:
    """Understand a query and embed it.

    Args:
        model: embeds the query's pictures and words.
        query: a text, a picture's path, or a sum such as `2:dog + pool.jpg - fruit`.

    Raises:
        QueryError: the query cannot be understood, or its terms cancel out.
        ImageError: a picture cannot be used.
    """
    terms = parse_query(query)
    vectors = [
        model.embed_image(term.value) if term.kind == "image" else model.embed_text(term.value)
        for term in terms
    ]
    weights = [term.weight for term in terms]
    return Query(terms, combine(np.concatenate(vectors), weights).reshape(1, -1))


def search(
    index: Index,
    query: Query,
    *,
    k: int,
    where: str | None = None,
    threshold: float | None = None,
    leave_out: Sequence[str] = (),
) -> list[Hit]:
    """Return the nearest rows, best first.

    Args:
        index: the table.
        query: from `read_query`.
        k: how many hits, at most.
        where: an SQL condition on the table's columns.
        threshold: the lowest cosine of a hit.
        leave_out: uris that are not hits, such as the query's own picture.

    Raises:
        ValueError: k is below 1.
        QueryError: the condition is wrong.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wanted = k + len(leave_out)
    hits = index.search(query.vector, k=wanted, where=where, threshold=threshold)[0]
    return [hit for hit in hits if hit.uri not in leave_out][:k]


def _shown(term: QueryTerm, *, is_first: bool) -> str:
    sign = "- " if term.weight < 0 else "" if is_first else "+ "
    weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}:"
    return f"{sign}{weight}{term.value}"
