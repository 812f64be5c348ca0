"""Whole jobs: a folder of pictures into a table, and a query's answer from it."""

from perception_encoder.pipeline.folder import Outcome, Status, find_pictures, index_folder
from perception_encoder.pipeline.search import Query, read_query, search

__all__ = [
    "Outcome",
    "Query",
    "Status",
    "find_pictures",
    "index_folder",
    "read_query",
    "search",
]
