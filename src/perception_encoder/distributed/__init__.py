"""Work on several machines: a Ray cluster reads and embeds images, and builds vector indexes.

Needs the extra `ray`. Importing this package does not import Ray.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.distributed.run import RunPlacement, on_cluster
    from perception_encoder.distributed.vector_index import (
        ClusterIndexBuilder,
        vector_index_builder,
    )

__getattr__ = lazily(
    __name__,
    {
        "ClusterIndexBuilder": "perception_encoder.distributed.vector_index",
        "RunPlacement": "perception_encoder.distributed.run",
        "on_cluster": "perception_encoder.distributed.run",
        "vector_index_builder": "perception_encoder.distributed.vector_index",
    },
)

__all__ = ["ClusterIndexBuilder", "RunPlacement", "on_cluster", "vector_index_builder"]
