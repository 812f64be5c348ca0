"""A bounded queue in front of one computation: requests of many connections share its batches.

Items wait in the order they came. A batch leaves when it is full, when its first item has waited
long enough, or when nothing else is to be expected: nothing is on its way, and the batch before had
no more items either. Who asks alone never waits for others. Sizes of batches are few, since engines
keep memory for each that they have seen: what is left over goes into the next one. Knows nothing of
pictures or HTTP.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import QueueFullError, WorkerCrashedError
from perception_encoder.types import Embeddings

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

_MOST_SECONDS: Final = 60
_STUCK: Final = 0.5  # of the timeout: a batch that takes longer is not waited for
_NEWEST: Final = 0.2  # how much the latest batch counts in the rate


class BatchObserver(Protocol):
    """Is told of every batch, in the worker's thread."""

    def batch(self, size: int, waited_seconds: float, computed_seconds: float) -> None:
        """Note a batch: its size, how long its first item waited, and how long it took."""

    def crash(self) -> None:
        """Note that the worker had to be replaced."""


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """As in `QueueSettings`, in seconds.

    Attributes:
        batch_seconds: of a slow model fewer than `max_batch` items are computed at once, so that no
            batch takes much longer.
    """

    max_batch: int
    batch_seconds: float
    max_wait_seconds: float
    capacity: int
    timeout_seconds: float


@dataclass(slots=True, eq=False)
class _Job(Generic[ItemT]):
    item: ItemT
    future: "asyncio.Future[NDArray[np.float32]]"
    loop: asyncio.AbstractEventLoop
    since: float


class Place:
    """Room in a queue, taken before the work that leads to it begins.

    Attributes:
        left: items that may still be given to `Batcher.run`.
    """

    def __init__(self, count: int) -> None:
        self.left = count


class Batcher(Generic[ItemT]):
    """The queue and its worker thread.

    Args:
        name: in logs and messages, such as "pictures of pe-nano".
        compute: turns a batch of items into (B, E) float32. Runs in the worker's thread. An
            `Exception` fails the items that raise it alone; anything worse ends the worker.
        limits: of the queue.
        observer: is told of batches.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[Sequence[ItemT]], Embeddings],
        limits: BatchLimits,
        observer: BatchObserver,
    ) -> None:
        self.name = name
        self._compute = compute
        self._limits = limits
        self._observer = observer
        self._queue: deque[_Job[ItemT]] = deque()
        self._changed = threading.Condition()
        self._coming = 0  # items that have a place and are not in the queue yet
        self._generation = 0
        self._busy_since: float | None = None
        self._rate: float | None = None  # items a second
        self._last_done = time.monotonic()
        self._latest_size = 1
        self._is_closing = False
        self._worker = self._start()

    @property
    def num_waiting(self) -> int:
        """Items that have a place and are not being computed yet."""
        return self._coming + len(self._queue)

    @property
    def seconds_since_done(self) -> float:
        """How long ago a batch was done; since the start where none was."""
        return time.monotonic() - self._last_done

    @contextmanager
    def reserve(self, count: int) -> Iterator[Place]:
        """Take places, and give back at the end those that were not used.

        Raises:
            QueueFullError: there is no room for all of them.
            WorkerCrashedError: the queue is closing.
        """
        with self._changed:
            if self._is_closing:
                raise WorkerCrashedError(f"{self.name}: shutting down; ask again later")
            if self.num_waiting + count > self._limits.capacity:
                raise QueueFullError(
                    f"{self.name}: the queue is full ({self.num_waiting} waiting, room for "
                    f"{self._limits.capacity}); ask again later, or for fewer at once",
                    retry_after_seconds=self._seconds_to_drain(),
                )
            self._coming += count
        place = Place(count)
        try:
            yield place
        finally:
            self._release(place, place.left)

    def give_up(self, place: Place) -> None:
        """Give one place back, whose item has turned out to be unusable."""
        self._release(place, 1)

    async def run(self, place: Place, item: ItemT) -> NDArray[np.float32]:
        """Queue one item and wait for its vector, (E,) float32.

        A caller that is cancelled takes its item out of the queue.

        Raises:
            WorkerCrashedError: the worker ended or hung while it computed; or the item's turn did
                not come in time.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[NDArray[np.float32]] = loop.create_future()
        with self._changed:
            place.left -= 1
            self._coming -= 1
            self._queue.append(_Job(item, future, loop, time.monotonic()))
            if len(self._queue) == 1 or self._is_due():  # each waking costs both threads time
                self._changed.notify()
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await future
        except TimeoutError:
            self._replace_if_stuck()
            raise WorkerCrashedError(
                f"{self.name}: no answer within {self._limits.timeout_seconds:g} s; ask again later"
            ) from None

    def close(self, timeout_seconds: float | None = None) -> None:
        """Finish what has a place, take nothing new, and end the worker."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            worker = self._worker
        worker.join(timeout_seconds)

    def _release(self, place: Place, count: int) -> None:
        if count:
            with self._changed:
                place.left -= count
                self._coming -= count
                self._changed.notify()

    def _seconds_to_drain(self) -> int:
        if self._rate is None:
            return 1
        return int(min(_MOST_SECONDS, max(1, np.ceil(self._limits.capacity / 2 / self._rate))))

    def _learn(self, speed: float) -> None:
        known = speed if self._rate is None else self._rate
        self._rate = (1 - _NEWEST) * known + _NEWEST * speed

    def _size(self) -> int:
        """Items of the next batch, at most."""
        if self._rate is None:
            return self._limits.max_batch
        return max(1, min(self._limits.max_batch, int(self._rate * self._limits.batch_seconds)))

    def _start(self) -> threading.Thread:
        worker = threading.Thread(
            target=self._work, args=(self._generation,), name=self.name, daemon=True
        )
        worker.start()
        return worker

    def _work(self, generation: int) -> None:
        while batch := self._next_batch(generation):
            started = time.monotonic()
            try:
                outcomes = self._outcomes(batch)
            except BaseException as err:
                logger.exception("%s: the worker ended and is replaced", self.name)
                self._observer.crash()
                with self._changed:
                    if generation == self._generation:
                        self._replace()
                failure = WorkerCrashedError(
                    f"{self.name}: the worker ended while computing ({type(err).__name__}); "
                    "it was replaced: ask again"
                )
                _deliver(batch, [failure] * len(batch))
                return
            now = time.monotonic()
            with self._changed:
                if generation == self._generation:
                    self._busy_since = None
                    self._last_done = now
                    self._learn(len(batch) / max(now - started, 1e-6))
            _deliver(batch, outcomes)
            self._observer.batch(len(batch), started - batch[0].since, now - started)

    def _outcomes(self, batch: Sequence[_Job[ItemT]]) -> list[NDArray[np.float32] | Exception]:
        """Compute a batch; where that fails, halves of it, so that what is bad fails alone."""
        try:
            return list(self._compute([job.item for job in batch]))
        except Exception as err:
            if len(batch) > 1:
                middle = len(batch) // 2
                return self._outcomes(batch[:middle]) + self._outcomes(batch[middle:])
            logger.exception("%s: computing failed", self.name)
            failure = WorkerCrashedError(f"{self.name}: computing failed ({type(err).__name__})")
            failure.__cause__ = err
            return [failure]

    def _next_batch(self, generation: int) -> list[_Job[ItemT]]:
        """Wait for a batch; empty when this worker is to end."""
        limits, queue = self._limits, self._queue
        with self._changed:
            while generation == self._generation:
                while queue and queue[0].future.done():  # whoever asked is gone
                    queue.popleft()
                if not queue and self._is_closing and not self._coming:
                    return []
                age = time.monotonic() - queue[0].since if queue else 0.0
                if queue and (self._is_due() or age >= limits.max_wait_seconds):
                    if batch := self._taken():
                        return batch
                    continue  # whoever asked went away this very moment
                self._changed.wait(limits.max_wait_seconds - age if queue else None)
            return []

    def _is_due(self) -> bool:
        """Whether what waits should leave now, whatever its age."""
        count = len(self._queue)
        return count >= self._size() or (not self._coming and count >= self._latest_size)

    def _taken(self) -> list[_Job[ItemT]]:
        waiting: list[_Job[ItemT]] = []
        size = self._size()
        while self._queue and len(waiting) < size:
            job = self._queue.popleft()
            if not job.future.done():
                waiting.append(job)
        if not waiting:
            return []
        count = _usual_size(len(waiting))
        batch, left = waiting[:count], waiting[count:]
        self._queue.extendleft(reversed(left))
        self._busy_since = time.monotonic()
        self._latest_size = len(left) or len(batch)  # what is left need not wait for as many again
        return batch

    def _replace_if_stuck(self) -> None:
        """Start another worker where this one computes one batch for longer than anybody waits."""
        with self._changed:
            since = self._busy_since
            longest = _STUCK * self._limits.timeout_seconds
            if since is None or time.monotonic() - since < longest:
                return
            logger.error("%s: the worker hangs and is replaced", self.name)
            self._replace()
        self._observer.crash()

    def _replace(self) -> None:
        self._generation += 1
        self._busy_since = None
        self._worker = self._start()


def _usual_size(count: int) -> int:
    """Return the largest of 1, 2, 3, 4, 6, 8, 12, 16, 24, … that is not above a count."""
    power = 1 << (count.bit_length() - 1)
    return power + power // 2 if count >= power + power // 2 else power


def _deliver(
    batch: Sequence[_Job[ItemT]], outcomes: Sequence[NDArray[np.float32] | Exception]
) -> None:
    """Hand outcomes over to the event loops that wait for them, with one wake-up for each."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job[ItemT], object]]] = {}
    for pair in zip(batch, outcomes, strict=True):
        by_loop.setdefault(pair[0].loop, []).append(pair)
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:  # the loop is closed: nobody waits any more
            logger.debug("results of %d items came too late", len(pairs))


def _settle(pairs: "Sequence[tuple[_Job[ItemT], object]]") -> None:
    for job, outcome in pairs:
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            assert isinstance(outcome, np.ndarray)
            job.future.set_result(outcome)
