"""Whole jobs: what sources hold into a table, and a query's answer from it."""

from perception_encoder.pipeline.progress import Progress
from perception_encoder.pipeline.queries import Query, read_queries
from perception_encoder.pipeline.retry import FailedItems
from perception_encoder.pipeline.run import Run, RunOptions
from perception_encoder.pipeline.search import Found, SearchOptions, search
from perception_encoder.pipeline.sources import Source, SourceOptions, open_sources
from perception_encoder.pipeline.watch import changes_of

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
    "search",
]
