"""Being connected to a Ray cluster, without the habits of Ray that a command cannot have."""

import logging
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from perception_encoder.backends import ComputeOptions
from perception_encoder.distributed.worker import Worker, WorkerSetup
from perception_encoder.errors import ClusterError, WorkerCrashedError
from perception_encoder.types import ModelIdentity, PreprocessName

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
_Handle: TypeAlias = Any  # of an actor

_SLOTS: Final = 2  # calls at once to a worker: one reads while the other computes
_GLANCE_SECONDS: Final = 0.2
_PAUSE_SECONDS: Final = 0.5
PLACING_SECONDS: Final = 60.0  # for Ray to find room for the first worker
RETURN_SECONDS: Final = 300.0  # for a worker that died to come back: a machine may have to boot
_KNOCKING_SECONDS: Final = 10.0


@contextmanager
def connect(address: str) -> Iterator[None]:
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


def list_nodes() -> list[dict[str, float]]:
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


def plan_workers(
    nodes: Sequence[Mapping[str, float]], device: str, cores: int | None
) -> WorkerPlan:
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


class Workers:
    """Workers of one model; any number of threads may ask them.

    Args:
        plan: how many, of what size.
        name: the model, which each worker opens for itself.
        options: where and how they compute.
        preprocess: as in `AutoModel.from_pretrained`.
        expected: the index's model; None for whatever the first one has opened.
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
        self._free: queue.Queue[_Handle] = queue.Queue()
        self._lock = threading.Lock()
        self._num_present = self._num_gone = 0  # slots that can be used, or never again
        self._failure: Exception | None = None  # why one is gone
        self._end: Exception | None = None  # why nobody is to be asked any more
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
        """Wait for the first worker, and return what it has opened; others join when they can.

        Raises:
            ClusterError: there is no room for any, or they have another model than expected.
            PerceptionEncoderError: what opening the model raised.
        """
        import ray

        placed, _ = ray.wait(
            [handle.__ray_ready__.remote() for handle in self._handles], timeout=PLACING_SECONDS
        )
        if not placed:
            free = ray.available_resources()
            raise ClusterError(
                f"the cluster has no room: wanted are {self._plan}, free are "
                f"{free.get('CPU', 0):g} CPU cores and {free.get('GPU', 0):g} GPUs; wait until "
                "others are done, or ask for less (--ray-cores)"
            )
        for handle in self._handles:
            self._welcome(handle, _SLOTS)
        self._free.put(self._taken())
        assert self._first is not None
        return self._first

    def ask(self, question: Callable[[_Handle], _Answer]) -> _Answer:
        """Put a question to a free worker.

        Args:
            question: calls the worker's methods and gets their results.

        Raises:
            WorkerCrashedError: it was lost on the way; another one may be asked.
            ClusterError: none is left, or one that came has another model.
            Exception: what the worker raised.
        """
        from ray.exceptions import RayError, RayTaskError

        worker, is_lost = self._taken(), False
        try:
            return question(worker)
        except RayTaskError as err:
            raise _cause(err) from err
        except RayError as err:
            is_lost = True
            raise WorkerCrashedError(f"a worker was lost ({first_line(err)})") from err
        finally:
            if is_lost:
                self._lose(worker)
            else:
                self._free.put(worker)

    def close(self) -> None:
        """End the workers."""
        import ray

        self._end = self._end or ClusterError("the workers have been closed")
        for handle in self._handles:
            ray.kill(handle)

    def _taken(self) -> _Handle:
        """Return a free worker that lives and has the right model."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        while True:
            worker = self._waited_for()
            try:
                self._check(ray.get(worker.open.remote()))
            except RayTaskError as err:
                self._give_up(1, _cause(err), was_present=True)
            except RayError:  # its machine went while it was free: nothing is lost with it
                self._lose(worker)
            else:
                return worker

    def _waited_for(self) -> _Handle:
        """Wait for a free worker, as long as one is at work or may come back."""
        waited = 0.0
        while True:
            if self._end is not None:
                raise self._end
            if self._num_gone == self.num_slots and self._failure is not None:
                raise self._failure
            if waited > RETURN_SECONDS:
                raise ClusterError(
                    "all workers are lost, and Ray could not start one again in "
                    f"{RETURN_SECONDS:.0f} s; the same command goes on from here"
                )
            try:
                return self._free.get(timeout=_GLANCE_SECONDS)
            except queue.Empty:
                # Opening the model for the first time may take as long as it takes.
                is_deserted = self._num_present == 0 and self._first is not None
                waited = waited + _GLANCE_SECONDS if is_deserted else 0.0

    def _lose(self, worker: _Handle) -> None:
        with self._lock:
            self._num_present -= 1
        self._welcome(worker, 1)

    def _welcome(self, worker: _Handle, num_slots: int) -> None:
        """Wait, beside everything else, until a worker is there, and let it be asked."""
        threading.Thread(target=self._wait_for, args=(worker, num_slots), daemon=True).start()

    def _wait_for(self, worker: _Handle, num_slots: int) -> None:
        import ray
        from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

        until = time.monotonic() + RETURN_SECONDS
        while True:
            try:
                opened = ray.get(worker.open.remote())
            except RayTaskError as err:
                return self._give_up(num_slots, _cause(err))
            except RayError as err:
                # Ray starts it again, once it knows that a machine is dead and has room on another.
                if isinstance(err, ActorUnavailableError) and time.monotonic() < until:
                    time.sleep(_PAUSE_SECONDS)
                    continue
                reason = str(err).strip().split("\n")[-1].strip()  # of what was raised there
                return self._give_up(
                    num_slots,
                    ClusterError(
                        f"a worker cannot be started: {reason}; every machine must have this "
                        "version of perception-encoder"
                    ),
                )
            with self._lock:
                self._first = self._first or opened
                self._num_present += num_slots
            for _ in range(num_slots):
                self._free.put(worker)
            return None

    def _check(self, opened: WorkerSetup) -> None:
        """See whether a worker computes what the others do; if not, nobody is asked any more.

        Raises:
            ClusterError: it does not.
        """
        first = self._first
        assert first is not None  # it came before any was free
        expected, whose = first.identity, f"on {first.machine} it"
        if self._expected is not None:
            expected, whose = self._expected, "that of the index"
        if opened.identity != expected:
            self._end = ClusterError(
                f"the model on {opened.machine} is {_named(opened.identity)}, and {whose} is "
                f"{_named(expected)}; all must have the same weights"
            )
            raise self._end
        if opened.precision != first.precision:
            self._end = ClusterError(
                f"{opened.machine} would compute in {opened.precision} and {first.machine} in "
                f"{first.precision}; name one with --precision"
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
    """Return what the worker raised, as it was raised there."""
    cause = getattr(err, "cause", None)
    return cause if isinstance(cause, Exception) else ClusterError(first_line(err))


def _named(identity: ModelIdentity) -> str:
    return f"{identity.model_id} with weights {identity.fingerprint} ({identity.preprocess})"
