"""Being connected to a Ray cluster, without the habits of Ray that a command cannot have."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

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
