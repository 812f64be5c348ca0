"""Runs over sources on several machines: a Ray cluster reads and embeds, one process writes.

    worker      what each machine does; knows no cluster
    connection  to a cluster
    plan        how many workers of what size it has room for
    workers     starts them, gives them work, gets over the death of some
    place       joins them to a run, in the place of this process's own threads and backend

Needs the extra `ray`. Importing this does not import Ray.
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
