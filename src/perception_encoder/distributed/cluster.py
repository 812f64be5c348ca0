"""Connects to a Ray cluster and keeps a set of workers there.

Workers are Ray actors: Ray places them, moves arguments and results, and restarts those that died.
Two things are left to do here: wait for a free worker, and give lost work to another one. Ray's own
pools do not fit. `ActorPool` serves one thread and puts a dead actor back into the pool; Ray Data
reads the source and writes the index itself, but here one process must do both, as it knows what
the index has and only one process may write. Ray tasks would open the model once per process.
"""

import logging
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final, NamedTuple, TextIO, TypeAlias, TypeVar, cast

from perception_encoder.backends import ComputeOptions
from perception_encoder.distributed.worker import Worker, WorkerSetup
from perception_encoder.errors import ClusterError, WorkerCrashedError
from perception_encoder.types import ModelIdentity, PreprocessName

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
_Handle: TypeAlias = Any  # of an actor

_SLOTS: Final = 2  # concurrent calls to a worker: one reads while the other computes
_POLL_SECONDS: Final = 0.2
_RETRY_SECONDS: Final = 0.5
PLACING_SECONDS: Final = 60.0  # for Ray to place the first worker
RETURN_SECONDS: Final = 300.0  # for a worker that died to restart: a machine may have to boot
_CONNECT_SECONDS: Final = 10.0


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Connect to a cluster for the block. An existing connection is used and kept.

    Args:
        address: "auto" for the cluster of this machine, "HOST:PORT" of that cluster's head, or
            "ray://HOST:PORT" from another machine.

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
        _check_port(address)
    except OSError as err:
        raise ClusterError(
            f"no answer at {address} ({err}); start a cluster with: ray start --head"
        ) from err
    if ray.is_initialized():
        yield
        return
    threads_before = set(threading.enumerate())
    try:
        with _keep_signal_handler():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as err:
        raise ClusterError(
            f"cannot join a Ray cluster at {address} ({first_line(err)}); where one runs, it "
            "must have this Ray's version and the same token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)"
        ) from err
    threads_of_ray = frozenset(threading.enumerate()) - threads_before
    try:
        with redirect_stdout(cast("TextIO", _DataStdout(threads_of_ray))):
            yield
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Check that HOST:PORT answers; Ray itself would try for minutes.

    Raises:
        OSError: it does not.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


def list_nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def first_line(err: Exception) -> str:
    """Return the first line of an error's message; Ray adds pages of logs."""
    return str(err).strip().split("\n")[0]


@contextmanager
def _keep_signal_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces by one that exits at once."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


class _DataStdout:
    """The present stdout, except for threads of Ray: one of them prints which machines died.

    Args:
        threads_of_ray: what they print goes to stderr.
    """

    def __init__(self, threads_of_ray: Container[threading.Thread]) -> None:
        self._stdout = sys.stdout
        self._threads_of_ray = threads_of_ray

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)

    def write(self, text: str) -> int:
        is_ray = threading.current_thread() in self._threads_of_ray
        return (sys.stderr if is_ray else self._stdout).write(text)


class WorkerPlan(NamedTuple):
    """The number and size of the workers, which are all alike.

    Attributes:
        number: how many workers.
        cores: CPU cores of each.
        gpus: GPUs of each: 1, or 0 where the backend computes on the CPU.
    """

    number: int
    cores: int
    gpus: int

    def __str__(self) -> str:
        """Describe the plan in words."""
        workers = "1 worker" if self.number == 1 else f"{self.number} workers"
        cores = "1 CPU core" if self.cores == 1 else f"{self.cores} CPU cores"
        return f"{workers} of {'1 GPU and ' * self.gpus}{cores}"


def plan_workers(
    nodes: Sequence[Mapping[str, float]], device: str, cores: int | None
) -> WorkerPlan:
    """Divide the nodes of a cluster among workers: one per GPU, or one per node without GPUs.

    Args:
        nodes: the resources of each node, by Ray's names.
        device: "auto", "cpu" or "cuda".
        cores: CPU cores of each worker; None for as many as the smallest node has.

    Raises:
        ClusterError: no node has room for a worker.
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
    # For each usable node: its number of GPUs, and its cores.
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


def describe_shortage(plan: WorkerPlan) -> str:
    """Return what is wanted and what others have left free."""
    import ray

    free = ray.available_resources()
    return (
        f"the cluster has no room: wanted are {plan}, free are "
        f"{free.get('CPU', 0):g} CPU cores and {free.get('GPU', 0):g} GPUs; wait until "
        "others are done, or ask for less (--ray-cores)"
    )


class Workers:
    """Workers of one model, for any number of threads.

    Args:
        plan: their number and size.
        name: the model, which each worker opens for itself.
        options: where and how they compute.
        preprocess: as in `AutoModel.from_pretrained`.
        expected: the index's model; None for the model of the first worker.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        name: str,
        options: ComputeOptions,
        preprocess: PreprocessName | None,
        expected: ModelIdentity | None,
    ) -> None:
        import ray

        self.num_slots: Final = _SLOTS * plan.number
        self._plan = plan
        self._expected = expected
        self._first: WorkerSetup | None = None
        self._free: queue.Queue[_Handle] = queue.Queue()  # each worker once per free slot
        self._lock = threading.Lock()
        self._num_present = self._num_gone = 0  # slots that can be used, or never again
        self._failure: Exception | None = None  # of a worker that is gone
        self._end: Exception | None = None  # ends the run
        actor = ray.remote(Worker).options(
            num_cpus=plan.cores,
            num_gpus=plan.gpus,
            max_restarts=-1,
            max_concurrency=_SLOTS + 1,  # `open` does not wait for work
        )
        self._handles = [
            actor.remote(name, options, preprocess, plan.cores) for _ in range(plan.number)
        ]

    def start(self) -> WorkerSetup:
        """Wait for the first worker and return its setup; the others join when they are ready.

        Raises:
            ClusterError: there is no room for any, or the model is not the expected one.
            PerceptionEncoderError: opening the model failed.
        """
        import ray

        placed, _ = ray.wait(
            [handle.wait_until_placed.remote() for handle in self._handles], timeout=PLACING_SECONDS
        )
        if not placed:
            raise ClusterError(describe_shortage(self._plan))
        for handle in self._handles:
            self._add_when_ready(handle, _SLOTS)
        self._free.put(self._take())
        assert self._first is not None
        return self._first

    def ask(self, call: Callable[[_Handle], _Answer], *, tries: int = 1) -> _Answer:
        """Call a free worker.

        Args:
            call: calls the worker's methods and gets their results.
            tries: how many workers may be lost during the call.

        Raises:
            WorkerCrashedError: so many workers were lost.
            ClusterError: no worker is left, or a new one has another model.
            Exception: what the worker raised.
        """
        for left in reversed(range(tries)):
            try:
                return self._ask_once(call)
            except WorkerCrashedError:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Stop the workers."""
        import ray

        self._end = self._end or ClusterError("the workers have been closed")
        for handle in self._handles:
            ray.kill(handle)

    def _ask_once(self, call: Callable[[_Handle], _Answer]) -> _Answer:
        from ray.exceptions import RayError, RayTaskError

        worker, is_lost = self._take(), False
        try:
            return call(worker)
        except RayTaskError as err:
            raise _cause(err) from err
        except RayError as err:
            is_lost = True
            raise WorkerCrashedError(f"a worker was lost ({first_line(err)})") from err
        finally:
            if is_lost:
                self._remove(worker)
            else:
                self._free.put(worker)

    def _take(self) -> _Handle:
        """Return a free worker that is alive and has the right model."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        while True:
            worker = self._wait_for_free()
            try:
                self._check(ray.get(worker.open.remote()))
            except RayTaskError as err:
                self._give_up(1, _cause(err), was_present=True)
            except RayError:  # its machine went while it was free: no work is lost
                self._remove(worker)
            else:
                return worker

    def _wait_for_free(self) -> _Handle:
        """Wait for a free worker while one is busy or may restart."""
        waited = 0.0
        while True:
            if self._end is not None:
                raise self._end
            if self._num_gone == self.num_slots and self._failure is not None:
                raise self._failure
            if waited > RETURN_SECONDS:
                raise ClusterError(
                    "all workers are lost, and Ray could not restart one within "
                    f"{RETURN_SECONDS:.0f} s; run the same command again to continue"
                )
            try:
                return self._free.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                # The first opening of the model may take any time.
                is_empty = self._num_present == 0 and self._first is not None
                waited = waited + _POLL_SECONDS if is_empty else 0.0

    def _remove(self, worker: _Handle) -> None:
        with self._lock:
            self._num_present -= 1
        self._add_when_ready(worker, 1)

    def _add_when_ready(self, worker: _Handle, num_slots: int) -> None:
        """Start a thread that waits for a worker and then adds its free slots."""
        threading.Thread(target=self._add, args=(worker, num_slots), daemon=True).start()

    def _add(self, worker: _Handle, num_slots: int) -> None:
        import ray
        from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

        until = time.monotonic() + RETURN_SECONDS
        while True:
            try:
                setup = ray.get(worker.open.remote())
                break
            except RayTaskError as err:
                return self._give_up(num_slots, _cause(err))
            except RayError as err:
                # Ray restarts it once it notices the dead machine and has room on another.
                if isinstance(err, ActorUnavailableError) and time.monotonic() < until:
                    time.sleep(_RETRY_SECONDS)
                    continue
                reason = str(err).strip().split("\n")[-1].strip()  # the error that was raised there
                return self._give_up(
                    num_slots,
                    ClusterError(
                        f"a worker cannot be started: {reason}; every machine must have this "
                        "version of perception-encoder"
                    ),
                )
        with self._lock:
            self._first = self._first or setup
            self._num_present += num_slots
        for _ in range(num_slots):
            self._free.put(worker)
        return None

    def _check(self, setup: WorkerSetup) -> None:
        """Check that a worker computes the same as the others; if not, the run ends.

        Raises:
            ClusterError: it does not.
        """
        first = self._first
        assert first is not None  # set before any worker is free
        expected, whose = first.identity, f"on {first.machine} it"
        if self._expected is not None:
            expected, whose = self._expected, "that of the index"
        if setup.identity != expected:
            self._end = ClusterError(
                f"the model on {setup.machine} is {_describe(setup.identity)}, and {whose} is "
                f"{_describe(expected)}; all must have the same weights"
            )
            raise self._end
        if setup.precision != first.precision:
            self._end = ClusterError(
                f"{setup.machine} would compute in {setup.precision} and {first.machine} in "
                f"{first.precision}; choose one with --precision"
            )
            raise self._end

    def _give_up(self, num_slots: int, err: Exception, *, was_present: bool = False) -> None:
        with self._lock:
            self._num_gone += num_slots
            self._num_present -= num_slots * was_present
            self._failure = err
        if self._end is None and self._num_gone < self.num_slots:  # else it ends the run
            logger.warning("a worker of the cluster cannot be used: %s", err)


def _cause(err: Any) -> Exception:
    """Return the exception that the worker raised."""
    cause = getattr(err, "cause", None)
    return cause if isinstance(cause, Exception) else ClusterError(first_line(err))


def _describe(identity: ModelIdentity) -> str:
    return f"{identity.model_id} with weights {identity.fingerprint} ({identity.preprocess})"
