"""Indexing runs on several machines: a Ray cluster reads and embeds, one process writes.

Needs the extra `ray`. Importing this package does not import Ray.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.distributed.run import RunPlacement, on_cluster

__getattr__ = lazily(
    __name__,
    {
        "RunPlacement": "perception_encoder.distributed.run",
        "on_cluster": "perception_encoder.distributed.run",
    },
)

__all__ = ["RunPlacement", "on_cluster"]
