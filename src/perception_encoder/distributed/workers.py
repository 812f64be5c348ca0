"""Workers on the nodes of a Ray cluster, and who of them has a hand free.

They are Ray's actors: Ray finds room for them, moves what they are given and give back, and starts
those anew that died. Ray Data, whose pools do the same, wants to list the source and write the
index itself; here one process does both, as only it knows what the index has and only one may
write. Ray's tasks would open the model anew in every process that one of them meets. So all that
is left to do here is to wait for a free worker, and to give another one what was lost with one.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from perception_encoder.backends import ComputeOptions
from perception_encoder.distributed.cluster import WorkerPlan, first_line
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
