"""Threads that end with the process, whatever they are doing.

Python waits at its end for those of a `ThreadPoolExecutor`: one that reads from a disk that does
not answer would keep a server from stopping.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

ResultT = TypeVar("ResultT")

_Task: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"


class DaemonThreads:
    """Up to so many threads, started when they are needed; work waits in the order it came.

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

    def submit(self, work: Callable[[], ResultT]) -> "Future[ResultT]":
        """Have something done; the result can be cancelled until it has begun."""
        future: Future[ResultT] = Future()
        with self._changed:
            self._tasks.append((future, work))
            self._changed.notify()
            if len(self._tasks) <= self._num_idle or self._num_threads == self._max_threads:
                return future
            self._num_threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Cancel what waits, and let the threads end when they are done."""
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


def _settle(future: "Future[ResultT]", work: Callable[[], ResultT]) -> None:
    try:
        result = work()
    except BaseException as err:  # noqa: BLE001  whoever waits is told
        future.set_exception(err)
        del future, work  # this frame is kept by the error, which the future keeps: a ring
    else:
        future.set_result(result)
