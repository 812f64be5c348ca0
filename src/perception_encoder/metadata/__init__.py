"""The metadata of photos: when, where and with what they were taken, titles, captions, keywords."""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.metadata.photo import COLUMNS, ColumnKind, ColumnValue, PhotoMetadata
    from perception_encoder.metadata.read import read_metadata
    from perception_encoder.metadata.sidecars import (
        MAX_SIDECAR_BYTES,
        SidecarFinder,
        find_sidecars,
        is_sidecar,
        merge_sidecars,
    )
    from perception_encoder.metadata.videos import read_video_metadata

__getattr__ = lazily(
    __name__,
    {
        "COLUMNS": "perception_encoder.metadata.photo",
        "ColumnKind": "perception_encoder.metadata.photo",
        "ColumnValue": "perception_encoder.metadata.photo",
        "MAX_SIDECAR_BYTES": "perception_encoder.metadata.sidecars",
        "PhotoMetadata": "perception_encoder.metadata.photo",
        "SidecarFinder": "perception_encoder.metadata.sidecars",
        "find_sidecars": "perception_encoder.metadata.sidecars",
        "is_sidecar": "perception_encoder.metadata.sidecars",
        "merge_sidecars": "perception_encoder.metadata.sidecars",
        "read_metadata": "perception_encoder.metadata.read",
        "read_video_metadata": "perception_encoder.metadata.videos",
    },
)

__all__ = [
    "COLUMNS",
    "MAX_SIDECAR_BYTES",
    "ColumnKind",
    "ColumnValue",
    "PhotoMetadata",
    "SidecarFinder",
    "find_sidecars",
    "is_sidecar",
    "merge_sidecars",
    "read_metadata",
    "read_video_metadata",
]
