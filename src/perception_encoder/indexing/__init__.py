"""The indexing run: the images of sources become rows of an index."""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.indexing.commit import Progress
    from perception_encoder.indexing.reembed import Reembedding, ReembedOptions
    from perception_encoder.indexing.refresh import MetadataRefresh
    from perception_encoder.indexing.run import Run, RunOptions
    from perception_encoder.indexing.watch import FailedItems, watch_changes

__getattr__ = lazily(
    __name__,
    {
        "FailedItems": "perception_encoder.indexing.watch",
        "MetadataRefresh": "perception_encoder.indexing.refresh",
        "Progress": "perception_encoder.indexing.commit",
        "ReembedOptions": "perception_encoder.indexing.reembed",
        "Reembedding": "perception_encoder.indexing.reembed",
        "Run": "perception_encoder.indexing.run",
        "RunOptions": "perception_encoder.indexing.run",
        "watch_changes": "perception_encoder.indexing.watch",
    },
)

__all__ = [
    "FailedItems",
    "MetadataRefresh",
    "Progress",
    "ReembedOptions",
    "Reembedding",
    "Run",
    "RunOptions",
    "watch_changes",
]
