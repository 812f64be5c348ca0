"""Runs analyses of indexes in the background, each once for a state of its index.

One job runs at a time, as each may use the whole machine. Requests for equal analyses share a job.
It belongs to none of them, and ends when no request has asked for it for some minutes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from perception_encoder.errors import QueueFullError
from perception_encoder.index import Index
from perception_encoder.server.core.analyses import Report
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import DaemonThreads, WorkPool

ResultT = TypeVar("ResultT", covariant=True)

_MAX_RESULTS: Final = 8  # kept
_MAX_UNFINISHED: Final = 8  # jobs that run or wait
_PATIENCE_SECONDS: Final = 1.0  # a request waits this long for a result before it is told to return
_ABANDONED_SECONDS: Final = 300.0  # the page asks every second or two
_RETRY_SECONDS: Final = 30

_Key: TypeAlias = tuple[str, Hashable]


class Analysis(Hashable, Protocol[ResultT]):
    """What is asked for; equal ones share a job."""

    def run(self, index: Index, report: Report) -> ResultT:
        """Analyze an index, in a thread."""
        ...


@dataclass(frozen=True)
class JobProgress:
    """A job that is not finished.

    Attributes:
        stage: what it is doing.
        share: how much of the stage is done, from 0 to 1; None where that is unknown.
        seconds: since it was asked for.
    """

    stage: str
    share: float | None
    seconds: float


@dataclass(frozen=True)
class JobResult(Generic[ResultT]):
    """The result of a job."""

    value: ResultT


class _EndedError(Exception):
    """No request wants the result any more."""


class _Job:
    """One analysis of one state of an index."""

    def __init__(self, state: tuple[int, str]) -> None:
        self.state: Final = state
        self.started_at: Final = time.monotonic()
        self.asked_at = self.started_at
        self.future: asyncio.Future[Any]
        self._stage: tuple[str, float | None] = ("waiting", None)
        self._is_ended = threading.Event()

    @property
    def has_failed(self) -> bool:
        return self.future.done() and (
            self.future.cancelled() or self.future.exception() is not None
        )

    @property
    def progress(self) -> JobProgress:
        stage, share = self._stage
        return JobProgress(stage, share, time.monotonic() - self.started_at)

    def end(self) -> None:
        """Stop at the next report, or never begin."""
        self._is_ended.set()
        self.future.cancel()

    def report(self, stage: str, share: float | None) -> None:
        """Note the progress; stop if no request wants the result. Called in the job's thread."""
        self._stage = (stage, share)
        if self._is_ended.is_set() or time.monotonic() - self.asked_at > _ABANDONED_SECONDS:
            raise _EndedError


class IndexJobs:
    """The jobs of a server. Belongs to one event loop.

    Args:
        searches: the threads that look at indexes.
    """

    def __init__(self, searches: WorkPool) -> None:
        self._searches = searches
        self._jobs: OrderedDict[_Key, _Job] = OrderedDict()
        self._thread = DaemonThreads(1, "analyses")

    async def get(
        self, served: ServedIndex, analysis: Analysis[ResultT]
    ) -> JobResult[ResultT] | JobProgress:
        """Return the result for the index as it is now, or the progress of its job.

        Raises:
            IndexStorageError: the index cannot be read.
            QueueFullError: too many other jobs run or wait.
        """
        state = await self._searches.run(lambda: served.fresh().state)
        key = (served.name, analysis)
        job = self._jobs.get(key)
        if job is None or job.state != state or job.has_failed:
            job = self._start(served, analysis, state)
        job.asked_at = time.monotonic()
        self._jobs.move_to_end(key)
        await asyncio.wait([job.future], timeout=_PATIENCE_SECONDS)
        if job.future.done() and not job.future.cancelled():
            return JobResult(job.future.result())
        return job.progress

    def close(self) -> None:
        """End all jobs."""
        for job in self._jobs.values():
            job.end()
        self._thread.close()

    def _start(
        self, served: ServedIndex, analysis: Analysis[ResultT], state: tuple[int, str]
    ) -> _Job:
        key = (served.name, analysis)
        for other, job in list(self._jobs.items()):
            is_outdated = other[0] == served.name and job.state != state
            if other == key or is_outdated:
                job.end()
                del self._jobs[other]
        finished = [other for other, job in self._jobs.items() if job.future.done()]
        num_unfinished = len(self._jobs) - len(finished)
        if num_unfinished >= _MAX_UNFINISHED:
            raise QueueFullError(
                f"{num_unfinished} analyses of indexes are running or waiting; ask again later",
                retry_after_seconds=_RETRY_SECONDS,
            )
        for other in finished[: max(0, len(finished) + 1 - _MAX_RESULTS)]:
            del self._jobs[other]
        job = self._jobs[key] = _Job(state)
        work = partial(_run, served, analysis, job.report)
        job.future = asyncio.wrap_future(self._thread.submit(work))
        job.future.add_done_callback(_retrieve_error)
        return job


def _run(served: ServedIndex, analysis: Analysis[ResultT], report: Report) -> ResultT:
    report("starting", None)
    # An object of its own: the served one moves on to newer rows.
    return analysis.run(Index.open(served.path), report)


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an error for which no request came back."""
    if not future.cancelled():
        future.exception()
