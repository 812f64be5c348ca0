"""How many workers of what size a cluster has room for. Plain numbers; knows no Ray."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perception_encoder.errors import ClusterError


class Plan(NamedTuple):
    """Workers that are alike.

    Attributes:
        number: of them.
        cores: CPU cores of each.
        gpus: of each: 1, or 0 where the engine computes on the CPU.
    """

    number: int
    cores: int
    gpus: int

    def __str__(self) -> str:
        """Say it to a person."""
        workers = "1 worker" if self.number == 1 else f"{self.number} workers"
        cores = "1 CPU core" if self.cores == 1 else f"{self.cores} CPU cores"
        return f"{workers} of {'1 GPU and ' * self.gpus}{cores}"


def plan(nodes: Sequence[Mapping[str, float]], device: str, cores: int | None) -> Plan:
    """Divide a cluster's nodes among workers: one for each GPU, where there is none one a node.

    Args:
        nodes: the resources of each, as Ray names them.
        device: "auto", "cpu" or "cuda".
        cores: of each worker; None for as many as the smallest node can give.

    Raises:
        ClusterError: no node has room for one.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ClusterError(
            f"a worker of a cluster has one GPU or none, and cannot be told to use {device}; "
            "the device is auto, cpu or cuda"
        )
    gpus = int(device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes))
    if device == "cuda" and not gpus:
        raise ClusterError(
            f"none of the cluster's {len(nodes)} nodes has a GPU; start Ray on machines that have "
            "one (ray start --num-gpus=1), or let the CPUs compute (--device cpu)"
        )
    # Of each usable node: for how many workers it has GPUs, and its cores.
    usable = [
        (int(node["GPU"]) if gpus else None, int(node["CPU"]))
        for node in nodes
        if node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= gpus
    ]
    cores = cores or min((max(1, found // (on_gpus or 1)) for on_gpus, found in usable), default=1)
    count = sum(
        found // cores if on_gpus is None else min(on_gpus, found // cores)
        for on_gpus, found in usable
    )
    if not count:
        most = max((found for _, found in usable), default=0)
        raise ClusterError(
            f"no node of the cluster has {cores} CPU cores for a worker; the most are {most} on "
            f"one of {len(nodes)} nodes"
        )
    return Plan(count, cores, gpus)
