"""The metadata of photos: when, where and with what they were taken, titles, captions, keywords."""

from perception_encoder.metadata.photo import COLUMNS, ColumnKind, ColumnValue, PhotoMetadata
from perception_encoder.metadata.read import read_metadata
from perception_encoder.metadata.sidecars import (
    MAX_SIDECAR_BYTES,
    SidecarFinder,
    find_sidecars,
    merge_sidecars,
)

__all__ = [
    "COLUMNS",
    "MAX_SIDECAR_BYTES",
    "ColumnKind",
    "ColumnValue",
    "PhotoMetadata",
    "SidecarFinder",
    "find_sidecars",
    "merge_sidecars",
    "read_metadata",
]
