"""Being connected to a Ray cluster, without the habits of Ray that a command cannot have."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from perception_encoder.errors import ClusterError

_KNOCKING_SECONDS: Final = 10.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to a cluster; a program that is connected already stays so.

    Args:
        address: "auto" for the cluster that this machine belongs to, "HOST:PORT" of the head of
            one that it belongs to, "ray://HOST:PORT" from elsewhere.

    Raises:
        ClusterError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as err:
        raise ClusterError(
            f"Ray cannot be imported ({err}); install it: pip install 'perception-encoder[ray]'"
        ) from err
    try:
        _knock(address)
    except OSError as err:
        raise ClusterError(
            f"nobody answers at {address} ({err}); start a cluster with: ray start --head"
        ) from err
    if ray.is_initialized():
        yield
        return
    try:
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as err:
        raise ClusterError(
            f"cannot join a Ray cluster at {address} ({first_line(err)}); where one runs, it "
            "must have this Ray's version and the same token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)"
        ) from err
    try:
        with _own_stdout():
            yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether anybody listens at HOST:PORT, as Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCKING_SECONDS).close()


def nodes() -> list[dict[str, float]]:
    """Return the resources of the cluster's living nodes."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def first_line(err: Exception) -> str:
    """Return what an error of Ray says first; whole stories follow."""
    return str(err).strip().split("\n")[0]


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that exits at once."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _own_stdout() -> Iterator[None]:
    """Send what Ray tells of dying machines to stderr, in short: stdout is for data.

    Ray has no setting for that. Where a version of it has no such function, nothing is changed.
    """
    import ray._private.worker as rays

    tell = getattr(rays, "print_to_stdstream", None)
    if tell is None:
        yield
        return

    def tell_on_stderr(data: dict[str, Any], **options: Any) -> None:
        lines = [line.split("\n")[0] for line in data["lines"]]  # pages of logs follow
        tell({**data, "lines": lines, "is_err": True}, **options)

    rays.print_to_stdstream = tell_on_stderr
    try:
        yield
    finally:
        rays.print_to_stdstream = tell


class WorkerPlan(NamedTuple):
    """Workers that are alike.

    Attributes:
        number: of them.
        cores: CPU cores of each.
        gpus: of each: 1, or 0 where the backend computes on the CPU.
    """

    number: int
    cores: int
    gpus: int

    def __str__(self) -> str:
        """Say it to a person."""
        workers = "1 worker" if self.number == 1 else f"{self.number} workers"
        cores = "1 CPU core" if self.cores == 1 else f"{self.cores} CPU cores"
        return f"{workers} of {'1 GPU and ' * self.gpus}{cores}"


def plan(nodes: Sequence[Mapping[str, float]], device: str, cores: int | None) -> WorkerPlan:
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
    return WorkerPlan(count, cores, gpus)
