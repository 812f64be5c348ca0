"""Builds the vector index of an index on a Ray cluster, with Lance's package for Ray.

`lance-ray` trains the partitions here, has each worker encode some of the fragments, and commits
their segments. Only vectors travel, from the bucket to the workers: this process reads a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from perception_encoder.distributed.cluster import (
    PLACING_SECONDS,
    WorkerPlan,
    connect,
    describe_shortage,
    first_line,
    list_nodes,
    plan_workers,
)
from perception_encoder.errors import ClusterError
from perception_encoder.index.schema import VECTOR
from perception_encoder.index.vector_index import extend_vector_index, index_parameters

if TYPE_CHECKING:
    import lance


class ClusterIndexBuilder:
    """Builds vector indexes on the workers of a cluster.

    Attributes:
        plan: the number and size of the workers.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        self.plan: Final = plan

    def __call__(self, dataset: lance.LanceDataset) -> None:
        """Build the vector index of the latest version, which the dataset shows afterwards.

        Raises:
            ClusterError: the cluster has no room, or the workers failed; the index is as before.
        """
        import lance_ray

        num_rows = int(dataset.count_rows())
        parameters = index_parameters(num_rows)
        # It refuses to train on more rows than there are, where Lance takes them all.
        all_rows = num_rows // parameters["num_partitions"]
        parameters["sample_rate"] = max(2, min(parameters["sample_rate"], all_rows))
        with _reserved(self.plan) as placement:
            try:
                lance_ray.create_index(
                    dataset.uri,
                    VECTOR,
                    num_workers=self.plan.number,
                    ray_remote_args=placement,
                    **parameters,
                )
            except RuntimeError as err:  # it raises errors of workers and of Ray as these
                raise ClusterError(
                    f"{dataset.uri}: the vector index could not be built on the cluster "
                    f"({first_line(err)}); the index is as before, run the same command again"
                ) from err
        dataset.checkout_latest()  # type: ignore[no-untyped-call]
        extend_vector_index(dataset)  # joins the workers' segments, so that queries read one


@contextmanager
def vector_index_builder(
    address: str, *, cores: int | None = None
) -> Iterator[ClusterIndexBuilder]:
    """Connect to a cluster; yield what `Index.optimize` takes as `build_vector_index`.

    Args:
        address: as in `on_cluster`, but not "ray://…".
        cores: CPU cores of each worker; None for as many as the smallest node has.

    Raises:
        ClusterError: Ray or lance-ray is not installed, no cluster answers, or it has no room.
    """
    if address.startswith("ray://"):
        raise ClusterError(
            f"a vector index cannot be built through {address}, as lance-ray does not know such "
            "addresses; run the command on a machine of the cluster, with auto or HOST:PORT"
        )
    try:
        import lance_ray  # noqa: F401  before the index is changed
    except ImportError as err:
        raise ClusterError(
            f"lance-ray cannot be imported ({err}); install it: "
            "pip install 'perception-encoder[ray]'"
        ) from err
    with connect(address):
        yield ClusterIndexBuilder(plan_workers(list_nodes(), "cpu", cores))


@contextmanager
def _reserved(plan: WorkerPlan) -> Iterator[dict[str, Any]]:
    """Reserve the workers' cores; yield the options that place actors there.

    Raises:
        ClusterError: others use them.
    """
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"CPU": plan.cores}] * plan.number, strategy="SPREAD")
    try:
        if not group.wait(PLACING_SECONDS):
            raise ClusterError(describe_shortage(plan))
        yield {
            "num_cpus": plan.cores,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group),
        }
    finally:
        remove_placement_group(group)
