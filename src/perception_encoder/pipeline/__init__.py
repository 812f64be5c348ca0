"""Whole jobs: what sources hold into a table, and a query's answer from it.

Names come when they are used: a search loads nothing of what runs need.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.pipeline.progress import Progress
    from perception_encoder.pipeline.queries import Query, read_queries
    from perception_encoder.pipeline.retry import FailedItems
    from perception_encoder.pipeline.run import Run, RunOptions
    from perception_encoder.pipeline.search import Found, SearchOptions
    from perception_encoder.pipeline.sources import Source, SourceOptions, open_sources
    from perception_encoder.pipeline.watch import changes_of

__getattr__ = lazily(
    __name__,
    {
        "FailedItems": "perception_encoder.pipeline.retry",
        "Found": "perception_encoder.pipeline.search",
        "Progress": "perception_encoder.pipeline.progress",
        "Query": "perception_encoder.pipeline.queries",
        "Run": "perception_encoder.pipeline.run",
        "RunOptions": "perception_encoder.pipeline.run",
        "SearchOptions": "perception_encoder.pipeline.search",
        "Source": "perception_encoder.pipeline.sources",
        "SourceOptions": "perception_encoder.pipeline.sources",
        "changes_of": "perception_encoder.pipeline.watch",
        "open_sources": "perception_encoder.pipeline.sources",
        "read_queries": "perception_encoder.pipeline.queries",
    },
)

__all__ = [
    "FailedItems",
    "Found",
    "Progress",
    "Query",
    "Run",
    "RunOptions",
    "SearchOptions",
    "Source",
    "SourceOptions",
    "changes_of",
    "open_sources",
    "read_queries",
]
