"""Looks for an index's duplicates in the background, once for each state of the index.

One search runs at a time, as each takes all that the machine can give. It belongs to nobody:
requests that ask for the same share it, and it ends when nobody has asked for it in a while.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias

from perception_encoder.analysis.duplicates import (
    NEAR_DUPLICATE,
    SIMILAR,
    Duplicates,
    Tier,
    find_duplicates,
)
from perception_encoder.errors import QueueFullError
from perception_encoder.index import Index, Row
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import DaemonThreads, WorkPool

TierName: TypeAlias = Literal["bytes", "pixels", "near", "similar"]

_TIERS: Final[dict[TierName, Tier]] = {
    "bytes": "identical bytes",
    "pixels": "identical pixels",
    "near": "near duplicate",
    "similar": "similar",
}
_THRESHOLDS: Final[dict[TierName, float]] = {"near": NEAR_DUPLICATE, "similar": SIMILAR}
_REMEMBERED: Final = 8  # results
_MAX_UNFINISHED: Final = 8  # searches that run or wait
_AT_ONCE_SECONDS: Final = 1.0  # a search that takes no longer is answered at once
_ABANDONED_SECONDS: Final = 300.0
"""A search is ended that nobody has asked for in this time; the page asks every second or two."""

_LONGEST_PAUSE: Final = 60  # seconds; clients ignore a longer Retry-After

_Key: TypeAlias = tuple[str, TierName, float | None]


class _EndedError(Exception):
    """Nobody wants the result any more."""


class _Job:
    """One search: of which state of the index, and when it was last asked for."""

    def __init__(self, state: tuple[int, str]) -> None:
        self.state: Final = state
        self.asked_at = time.monotonic()
        self.future: asyncio.Future[Duplicates]
        self._is_ended = threading.Event()

    @property
    def has_failed(self) -> bool:
        return self.future.done() and (
            self.future.cancelled() or self.future.exception() is not None
        )

    def end(self) -> None:
        """Have it stop at its next checkpoint, or never begin."""
        self._is_ended.set()
        self.future.cancel()

    def checkpoint(self) -> None:
        """Stop the search if nobody wants its result; called in its thread."""
        if self._is_ended.is_set() or time.monotonic() - self.asked_at > _ABANDONED_SECONDS:
            raise _EndedError


class DuplicateJobs:
    """Searches that run or have ended, by what was asked for. Belongs to one event loop.

    Args:
        read: returns an image's encoded bytes.
        searches: the threads that look at indexes.
    """

    def __init__(self, read: Callable[[Row], bytes], searches: WorkPool) -> None:
        self._read = read
        self._searches = searches
        self._jobs: OrderedDict[_Key, _Job] = OrderedDict()
        self._thread = DaemonThreads(1, "duplicates")

    async def get(
        self, served: ServedIndex, tier: TierName, threshold: float | None
    ) -> Duplicates | None:
        """Return what was found in the index as it is now; None while it is being looked for.

        Raises:
            IndexStorageError: the index cannot be read.
            QueueFullError: too many other searches run or wait.
        """
        state = await self._searches.run(lambda: served.fresh().state)
        # The same search whether a threshold is the usual one or is written out.
        usual = _THRESHOLDS.get(tier)
        key = (served.name, tier, usual if usual is None or threshold is None else threshold)
        job = self._jobs.get(key)
        if job is None or job.state != state or job.has_failed:
            job = self._start(served, key, state)
        job.asked_at = time.monotonic()
        self._jobs.move_to_end(key)
        await asyncio.wait([job.future], timeout=_AT_ONCE_SECONDS)
        return job.future.result() if job.future.done() and not job.future.cancelled() else None

    def close(self) -> None:
        """End all searches."""
        for job in self._jobs.values():
            job.end()
        self._thread.close()

    def _start(self, served: ServedIndex, key: _Key, state: tuple[int, str]) -> _Job:
        for other, job in list(self._jobs.items()):  # of what the index was before
            if other == key or (other[0] == served.name and job.state != state):
                job.end()
                del self._jobs[other]
        finished = [other for other, job in self._jobs.items() if job.future.done()]
        num_unfinished = len(self._jobs) - len(finished)
        if num_unfinished >= _MAX_UNFINISHED:
            raise QueueFullError(
                f"{num_unfinished} searches for duplicates are running or waiting; ask again later",
                retry_after_seconds=_LONGEST_PAUSE // 2,
            )
        for other in finished[: max(0, len(finished) + 1 - _REMEMBERED)]:
            del self._jobs[other]
        job = self._jobs[key] = _Job(state)
        work = partial(self._find, served, key, job.checkpoint)
        job.future = asyncio.wrap_future(self._thread.submit(work))
        job.future.add_done_callback(_note_error)
        return job

    def _find(self, served: ServedIndex, key: _Key, checkpoint: Callable[[], None]) -> Duplicates:
        checkpoint()
        _, tier, threshold = key
        return find_duplicates(
            Index.open(served.path),  # of its own: the served one changes while it is looked at
            self._read,
            tier=_TIERS[tier],
            threshold=threshold,
            checkpoint=checkpoint,
        )


def _note_error(future: "asyncio.Future[Duplicates]") -> None:
    """Look at the error, so that asyncio does not report one that nobody came back for."""
    if not future.cancelled():
        future.exception()
