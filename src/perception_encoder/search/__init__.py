"""Queries: parsed, embedded, ranked and calibrated."""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.search.queries import Query, read_queries
    from perception_encoder.search.ranking import SearchOptions, SearchResult

__getattr__ = lazily(
    __name__,
    {
        "SearchResult": "perception_encoder.search.ranking",
        "Query": "perception_encoder.search.queries",
        "SearchOptions": "perception_encoder.search.ranking",
        "read_queries": "perception_encoder.search.queries",
    },
)

__all__ = [
    "Query",
    "SearchOptions",
    "SearchResult",
    "read_queries",
]
