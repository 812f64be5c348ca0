"""Threads for one kind of work each, so that work that hangs stops no other kind.

A request may stop waiting, at a time limit or because its client is gone; a thread cannot be
stopped. So a thread's slot is free again when its work has ended, and not before.
"""

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from perception_encoder.errors import QueueFullError, WorkerCrashedError
from perception_encoder.preprocess.images import num_usable_cores

ThreadResultT = TypeVar("ThreadResultT")

_Task: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"
P = ParamSpec("P")
ResultT = TypeVar("ResultT")

_SLOW_SECONDS: Final = 1.0
"""Work that takes longer no longer counts against those that are usually done at once."""
TaskResultT = TypeVar("TaskResultT")


def release_frames(err: BaseException) -> None:
    """Remove the frames of a handled error and of its causes.

    An error keeps the frames that it passed, with their variables: the request's body among them. A
    frame that keeps its error forms a cycle with it, which is only collected much later.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [err]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        waiting += (one.__cause__, one.__context__)
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


class DaemonThreads:
    """Up to `max_threads` threads, started when they are needed; work waits in order.

    Args:
        max_threads: at once.
        name: of the threads.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._num_threads = 0
        self._num_idle = 0
        self._is_closed = False

    def submit(self, work: Callable[[], ThreadResultT]) -> "Future[ThreadResultT]":
        """Run `work` in a thread; the future can be cancelled until that begins."""
        future: Future[ThreadResultT] = Future()
        with self._changed:
            self._tasks.append((future, work))
            self._changed.notify()
            if len(self._tasks) <= self._num_idle or self._num_threads == self._max_threads:
                return future
            self._num_threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Cancel waiting work, and end the threads when they are done."""
        with self._changed:
            self._is_closed = True
            for future, _ in self._tasks:
                future.cancel()
            self._changed.notify_all()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            future, work = task
            if future.set_running_or_notify_cancel():
                _settle(future, work)
            del task, future, work  # the thread may be idle for long

    def _next(self) -> "_Task | None":
        with self._changed:
            while not self._tasks and not self._is_closed:
                self._num_idle += 1
                self._changed.wait()
                self._num_idle -= 1
            return self._tasks.popleft() if self._tasks else None


def _settle(future: "Future[ThreadResultT]", work: Callable[[], ThreadResultT]) -> None:
    try:
        result = work()
    except BaseException as err:  # noqa: BLE001  whoever waits is told
        future.set_exception(err)
        del future, work  # this frame is kept by the error, which the future keeps: a ring
    else:
        future.set_result(result)


class WorkPool:
    """A bounded number of threads, a bounded queue, and a bounded wait. Of one event loop.

    Args:
        name: in messages, such as "searches".
        num_threads: threads that work at once, without the slow ones.
        num_slow: further threads for work that takes longer than a second, so that a few slow
            calls do not delay all others.
        max_waiting: limit for waiting calls; more are refused.
        timeout_seconds: limit for one call, with its wait.
    """

    def __init__(
        self,
        name: str,
        *,
        num_threads: int,
        num_slow: int = 0,
        max_waiting: int = 256,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._name = name
        self._has_spare_threads = num_slow > 0
        self._max_waiting = max_waiting
        self._timeout_seconds = timeout_seconds
        self._free = asyncio.Semaphore(num_threads)
        self._num_waiting = 0
        self._threads = DaemonThreads(num_threads + num_slow, name)

    async def run(
        self, work: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResultT:
        """Call `work` in a thread and return its result; its errors are raised here.

        Cancelling the caller removes work that has not begun from the queue.

        Raises:
            QueueFullError: too many wait already.
            WorkerCrashedError: it was not done in time.
        """
        if self._num_waiting >= self._max_waiting:
            raise QueueFullError(
                f"{self._name}: {self._num_waiting} requests are waiting; ask again later",
                retry_after_seconds=max(1, math.ceil(self._timeout_seconds / 10)),
            )
        self._num_waiting += 1
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                await self._free.acquire()
                return await asyncio.wrap_future(self._begin(partial(work, *args, **kwargs)))
        except TimeoutError as err:
            if not limit.expired():
                raise
            raise WorkerCrashedError(
                f"{self._name}: not done within {self._timeout_seconds:g} s; ask again later"
            ) from err
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """Start no more work."""
        self._threads.close()

    def _begin(self, work: Callable[[], ResultT]) -> "Future[ResultT]":
        """Pass work to a thread; its slot is released when the work has ended."""
        loop = asyncio.get_running_loop()
        place = _PoolSlot(self._free)
        try:
            future = self._threads.submit(work)
        except BaseException:
            place.give_back()
            raise
        timer = None
        if self._has_spare_threads:
            timer = loop.call_later(_SLOW_SECONDS, place.give_back)

        def end() -> None:
            if timer is not None:
                timer.cancel()
            place.give_back()

        def ended(_: "Future[ResultT]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(end)

        future.add_done_callback(ended)
        return future


class _PoolSlot:
    """One of a pool's slots; it can be released once."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._is_held = True

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._free.release()


@dataclass(frozen=True)
class Pools:
    """The threads of a server's routes.

    Attributes:
        searches: reads of indexes, usually a fraction of a second long.
        scans: passes over whole columns of an index.
        files: reads of original images and of thumbnails; a network disk may not answer.
    """

    searches: WorkPool
    scans: WorkPool
    files: WorkPool

    @classmethod
    def make(cls, timeout_seconds: float) -> "Pools":
        """Make the pools; `timeout_seconds` is for searches."""
        return cls(
            WorkPool(
                "searches", num_threads=num_usable_cores() + 4, timeout_seconds=timeout_seconds
            ),
            WorkPool("scans", num_threads=2, max_waiting=64, timeout_seconds=timeout_seconds),
            WorkPool("reads of files", num_threads=4, num_slow=12, timeout_seconds=FILE_SECONDS),
        )

    def close(self) -> None:
        """Start no more work."""
        for pool in (self.searches, self.scans, self.files):
            pool.close()


FILE_SECONDS: Final = 20.0
"""How long a request waits for a file: a local one takes milliseconds, one behind a network a few
seconds."""


async def gather_all(awaitables: Iterable[Awaitable[TaskResultT]]) -> list[TaskResultT]:
    """Await all; the first that raises cancels the others and is raised."""
    waiting = list(awaitables)
    if len(waiting) == 1:  # most requests: no task needed
        return [await waiting[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_await_released(one)) for one in waiting]
    except ExceptionGroup as err:
        raise err.exceptions[0] from err
    return [task.result() for task in tasks]


def begin(awaitable: Awaitable[TaskResultT]) -> asyncio.Task[TaskResultT]:
    """Begin to await something, in a task that keeps nothing of it when it is cancelled."""
    return asyncio.create_task(_await_released(awaitable))


async def _await_released(awaitable: Awaitable[TaskResultT]) -> TaskResultT:
    try:
        return await awaitable
    except asyncio.CancelledError as err:
        release_frames(err)  # a task keeps it, and `asyncio.timeout` in one of them the task
        raise


async def cancel(tasks: Iterable[asyncio.Task[TaskResultT]]) -> None:
    """Cancel tasks and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
