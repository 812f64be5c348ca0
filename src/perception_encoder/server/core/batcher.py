"""A bounded queue in front of one computation: requests of many connections share its batches.

Items wait in the order they came. A batch starts when it is full, when its first item has waited
long enough, or when no other item is expected: none is being prepared, and the batch before had no
more items either. A lone request is never delayed. Batches have few sizes, since backends keep
memory for each size that they have seen; the rest goes into the next batch. A large request enters
the queue in parts, so it needs no room for all of its items and does not keep others waiting. While
there is no room for its first part it stands in a line, for a while, instead of being refused.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import QueueFullError, WorkerCrashedError
from perception_encoder.server.core.pools import begin, cancel, gather_all
from perception_encoder.types import Embeddings

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")


@dataclass(slots=True, eq=False)
class Job(Generic[ItemT]):
    """An item in the queue, the future of its result, and when it came (`time.monotonic`)."""

    item: ItemT
    future: "asyncio.Future[NDArray[np.float32]]"
    loop: asyncio.AbstractEventLoop
    since: float


def deliver(
    batch: Sequence[Job[ItemT]], outcomes: Sequence[NDArray[np.float32] | Exception]
) -> None:
    """Pass outcomes to the event loops that wait for them, with one wake-up for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job[ItemT], object]]] = {}
    for pair in zip(batch, outcomes, strict=True):
        by_loop.setdefault(pair[0].loop, []).append(pair)
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:  # the loop is closed
            logger.debug("results of %d items came too late", len(pairs))


def _settle(pairs: "Sequence[tuple[Job[ItemT], object]]") -> None:
    for job, outcome in pairs:
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            assert isinstance(outcome, np.ndarray)
            job.future.set_result(outcome)


ResultT = TypeVar("ResultT")

PART: Final = 64
"""Items of a request that enter the queue together, so that many large requests fit."""

_LONGEST_LINE: Final = 16  # large requests that wait for room; their items are in memory
_LINE_SECONDS: Final = 0.02  # between looks at the queue
_LINE_SHARE: Final = 0.5  # of the timeout: how long a request stands in the line
_MOST_SECONDS: Final = 60  # clients such as OpenAI's ignore a longer Retry-After
_STUCK: Final = 0.5  # of the timeout: a batch that takes longer is not waited for
_NEWEST: Final = 0.2  # how much the latest batch counts in the rate


class BatchObserver(Protocol):
    """Receives every batch's figures, in the worker's thread."""

    def batch(self, size: int, waited_seconds: float, computed_seconds: float) -> None:
        """Note a batch: its size, how long its first item waited, and how long it took."""

    def crash(self) -> None:
        """Note that the worker had to be replaced."""


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """As in `QueueSettings`, in seconds.

    Attributes:
        batch_seconds: a slow model gets fewer than `max_batch` items at once, so that no batch
            takes much longer.
    """

    max_batch: int
    batch_seconds: float
    max_wait_seconds: float
    capacity: int
    timeout_seconds: float


class QueueSlot:
    """Reserved room in a queue, taken before items are prepared.

    Attributes:
        left: items that may still be given to `Batcher.run`.
    """

    def __init__(self, count: int) -> None:
        self.left = count


class Batcher(Generic[ItemT]):
    """The queue and its worker thread.

    Args:
        name: in logs and messages, such as "images of pe-nano".
        compute: turns a batch of items into (B, E) float32. Runs in the worker's thread. An
            `Exception` fails the items that raise it alone; anything worse ends the worker.
        limits: of the queue.
        observer: receives the figures of batches.
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
        self._queue: deque[Job[ItemT]] = deque()
        self._changed = threading.Condition()
        self._coming = 0  # items with a slot that are not in the queue yet
        self._later = 0  # items without a slot, of requests that are accepted or in the line
        self._line: deque[object] = deque()
        self._promised_until = 0.0  # when refused requests will have been served
        self._generation = 0
        self._busy_since: float | None = None
        self._rate: float | None = None  # items a second
        self._last_done = time.monotonic()
        self._latest_size = 1
        self._is_closing = False
        self._worker = self._start()

    @property
    def num_waiting(self) -> int:
        """Items with a slot that are not being computed yet."""
        return self._coming + len(self._queue)

    @property
    def seconds_since_done(self) -> float:
        """Seconds since the last batch was done, or since the start."""
        return time.monotonic() - self._last_done

    @contextmanager
    def reserve(self, count: int) -> Iterator[QueueSlot]:
        """Reserve slots, and release the unused ones at the end.

        Raises:
            QueueFullError: there is no room for all of them.
            WorkerCrashedError: the queue is closing.
        """
        with self._changed:
            if not self._has_room(count):
                raise self._refusal(count)
            self._coming += count
        slot = QueueSlot(count)
        try:
            yield slot
        finally:
            self._release(slot, slot.left)

    async def run_all(
        self, count: int, run: Callable[[QueueSlot, int], Awaitable[ResultT]]
    ) -> list[ResultT]:
        """Run the items of one request in parts; return the results in their order.

        A large request waits a while for room for its first part. Once that has its slots, the
        other parts are not refused. While the queue is less than half full, two batches of one
        request are in progress, so that the worker does not wait for the next part.

        Args:
            count: of items.
            run: passes the item of a position to `run`, with its slot.

        Raises:
            QueueFullError: there is no room for the first part, or none in time.
            WorkerCrashedError: the queue is closing.
        """
        size = min(PART, self._limits.capacity)
        if count <= size:
            with self.reserve(count) as slot:
                return await gather_all(run(slot, position) for position in range(count))
        await self._stand_in_line(size, count)
        left, slots = count, list[QueueSlot]()
        parts: list[asyncio.Task[list[ResultT]]] = []
        running: set[asyncio.Task[list[ResultT]]] = set()
        try:
            while left or running:
                while left and (not running or self._has_room_beside(len(running) * size)):
                    slots.append(self._next_slot(min(size, left)))
                    runs = [run(slots[-1], count - left + n) for n in range(slots[-1].left)]
                    left -= len(runs)
                    parts.append(begin(gather_all(runs)))
                    running.add(parts[-1])
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await cancel(running)
            with self._changed:
                self._later -= left
                self._changed.notify()
            for slot in slots:
                self._release(slot, slot.left)
        return [result for task in parts for result in task.result()]

    def give_up(self, slot: QueueSlot) -> None:
        """Release the slot of an item that cannot be used."""
        self._release(slot, 1)

    async def run(self, slot: QueueSlot, item: ItemT) -> NDArray[np.float32]:
        """Queue one item and wait for its vector, (E,) float32.

        Cancelling the caller removes the item from the queue.

        Raises:
            WorkerCrashedError: the worker ended or hung while it computed; or the item's turn did
                not come in time.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[NDArray[np.float32]] = loop.create_future()
        with self._changed:
            slot.left -= 1
            self._coming -= 1
            self._queue.append(Job(item, future, loop, time.monotonic()))
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
        """Finish the items with a slot, accept no more, and end the worker."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            worker = self._worker
        worker.join(timeout_seconds)

    def _release(self, slot: QueueSlot, count: int) -> None:
        if count:
            with self._changed:
                slot.left -= count
                self._coming -= count
                self._changed.notify()

    async def _stand_in_line(self, count: int, whole: int) -> None:
        """Accept a request of `whole` items as soon as there is room for its first `count`."""
        turn = object()
        last = time.monotonic() + _LINE_SHARE * self._limits.timeout_seconds
        is_accepted = False
        with self._changed:
            if len(self._line) >= _LONGEST_LINE:
                raise self._refusal(whole)
            self._line.append(turn)
            self._later += whole
        try:
            while not self._is_closing and time.monotonic() < last:
                with self._changed:
                    if is_accepted := self._line[0] is turn and self._has_room(count):
                        return
                await asyncio.sleep(_LINE_SECONDS)
        finally:
            with self._changed:
                self._line.remove(turn)
                if not is_accepted:
                    self._later -= whole
                    self._changed.notify()
        with self._changed:
            raise self._refusal(whole)

    def _next_slot(self, count: int) -> QueueSlot:
        """Reserve slots for the next part of an accepted request."""
        with self._changed:
            self._later -= count
            self._coming += count
        return QueueSlot(count)

    def _refusal(self, count: int) -> WorkerCrashedError | QueueFullError:
        """Return the error for a request of `count` items that is not accepted."""
        if self._is_closing:
            return WorkerCrashedError(f"{self.name}: shutting down; ask again later")
        return QueueFullError(
            f"{self.name}: the queue is full ({self.num_waiting} waiting, room for "
            f"{self._limits.capacity}); ask again later",
            retry_after_seconds=self._seconds_until_turn(count),
        )

    def _has_room(self, count: int) -> bool:
        return not self._is_closing and self.num_waiting + count <= self._limits.capacity

    def _has_room_beside(self, num_running: int) -> bool:
        return (
            num_running < 2 * self._limits.max_batch
            and self.num_waiting <= self._limits.capacity // 2
        )

    def _seconds_until_turn(self, count: int) -> int:
        """Return when a refused request should be sent again.

        That is when accepted items and earlier refused requests are done, so that waiting clients
        come one after the other and find room.
        """
        # Before the rate is known a fast model is assumed: a client that is early is refused again.
        rate = self._rate or 10 * self._limits.max_batch / self._limits.batch_seconds
        now = time.monotonic()
        start = max(now + (self.num_waiting + self._later) / rate, self._promised_until)
        start = min(start, now + _MOST_SECONDS)
        self._promised_until = start + count / rate
        return max(1, int(np.ceil(start - now)))

    def _learn(self, speed: float) -> None:
        known = speed if self._rate is None else self._rate
        self._rate = (1 - _NEWEST) * known + _NEWEST * speed

    def _batch_size(self) -> int:
        """Return the largest size of the next batch."""
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
                outcomes = self._compute_outcomes(batch)
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
                deliver(batch, [failure] * len(batch))
                return
            now = time.monotonic()
            with self._changed:
                if generation == self._generation:
                    self._busy_since = None
                    self._last_done = now
                    self._learn(len(batch) / max(now - started, 1e-6))
            deliver(batch, outcomes)
            self._observer.batch(len(batch), started - batch[0].since, now - started)

    def _compute_outcomes(
        self, batch: Sequence[Job[ItemT]]
    ) -> list[NDArray[np.float32] | Exception]:
        """Compute a batch; if that fails, its halves, so that only bad items fail."""
        try:
            return list(self._compute([job.item for job in batch]))
        except Exception as err:
            if len(batch) > 1:
                middle = len(batch) // 2
                return self._compute_outcomes(batch[:middle]) + self._compute_outcomes(
                    batch[middle:]
                )
            logger.exception("%s: computing failed", self.name)
            failure = WorkerCrashedError(f"{self.name}: computing failed ({type(err).__name__})")
            failure.__cause__ = err
            return [failure]

    def _next_batch(self, generation: int) -> list[Job[ItemT]]:
        """Wait for a batch; return an empty one when this worker is to end."""
        limits, queue = self._limits, self._queue
        with self._changed:
            while generation == self._generation:
                while queue and queue[0].future.done():  # the request was cancelled
                    queue.popleft()
                if not queue and self._is_closing and not self._coming and not self._later:
                    return []
                age = time.monotonic() - queue[0].since if queue else 0.0
                if queue and (self._is_due() or age >= limits.max_wait_seconds):
                    if batch := self._take_batch():
                        return batch
                    continue  # the requests were cancelled meanwhile
                self._changed.wait(limits.max_wait_seconds - age if queue else None)
            return []

    def _is_due(self) -> bool:
        """Return whether a batch should start now, whatever the age of its items."""
        count = len(self._queue)
        return count >= self._batch_size() or (not self._coming and count >= self._latest_size)

    def _take_batch(self) -> list[Job[ItemT]]:
        waiting: list[Job[ItemT]] = []
        size = self._batch_size()
        while self._queue and len(waiting) < size:
            job = self._queue.popleft()
            if not job.future.done():
                waiting.append(job)
        if not waiting:
            return []
        count = _round_size(len(waiting))
        batch, left = waiting[:count], waiting[count:]
        self._queue.extendleft(reversed(left))
        self._busy_since = time.monotonic()
        self._latest_size = len(left) or len(batch)  # what is left need not wait for as many again
        return batch

    def _replace_if_stuck(self) -> None:
        """Start another worker if this one computes a batch for longer than requests wait."""
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


def _round_size(count: int) -> int:
    """Return the largest of 1, 2, 3, 4, 6, 8, 12, 16, 24, … that is not above a count."""
    power = 1 << (count.bit_length() - 1)
    return power + power // 2 if count >= power + power // 2 else power
