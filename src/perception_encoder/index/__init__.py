"""The vector index and its search. Lance and Arrow are loaded when an index is opened."""

from perception_encoder.index.index import Index
from perception_encoder.index.known_rows import KnownRows
from perception_encoder.index.outcomes import Outcome, OutcomeLog, Status
from perception_encoder.index.rows import FileState, Hit, MetadataValue, Row, item_name, row_id
from perception_encoder.index.schema import VectorDtype
from perception_encoder.index.storage import write_lock

__all__ = [
    "FileState",
    "Hit",
    "Index",
    "KnownRows",
    "MetadataValue",
    "Outcome",
    "OutcomeLog",
    "Row",
    "Status",
    "VectorDtype",
    "item_name",
    "row_id",
    "write_lock",
]
