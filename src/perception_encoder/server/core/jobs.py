"""Looks for an index's duplicates in the background, once for each state of the index.

One search runs at a time, as each takes all that the machine can give. It belongs to nobody:
requests that ask for the same share it, and it ends when nobody has asked for it in a while.
"""

import asyncio
import datetime
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from perception_encoder.analysis.duplicates import (
    NEAR_DUPLICATE,
    SIMILAR,
    Duplicates,
    Tier,
    find_duplicates,
)
from perception_encoder.errors import QueueFullError
from perception_encoder.index import Index, OutcomeLog, Row
from perception_encoder.index.storage import is_being_written
from perception_encoder.server.core.filters import Kind
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import DaemonThreads, WorkPool

if TYPE_CHECKING:
    import pyarrow as pa


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
_SHOWN: Final = 50  # values of one column
_MOST_COUNTED: Final = 10_000  # a column of more different texts is no choice for anybody
_UNIQUE: Final = frozenset(("id", "uri", "member", "sha256", "offset"))
_SHOWN_FAILURES: Final = 50


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


class Facets:
    """The facets of each index as it is now, found once for all requests. Of one event loop.

    Args:
        searches: the threads that look at indexes.
        scans: the threads that read whole columns.
    """

    def __init__(self, searches: WorkPool, scans: WorkPool) -> None:
        self._searches = searches
        self._scans = scans
        self._known: dict[str, tuple[tuple[int, str], asyncio.Task[dict[str, dict[str, Any]]]]] = {}

    async def get(self, served: ServedIndex) -> dict[str, dict[str, Any]]:
        """Return what `facets_of` does.

        Raises:
            IndexStorageError: the index cannot be read.
            ServingError: too much is waiting, or it takes too long.
        """
        state = await self._searches.run(lambda: served.fresh().state)
        known_state, task = self._known.get(served.name, (None, None))
        if task is None or known_state != state or (task.done() and task.exception() is not None):
            task = asyncio.create_task(self._scans.run(facets_of, served))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._known[served.name] = (state, task)
        # Not awaited itself: the task is not of this request, and goes on where this one ends.
        await asyncio.wait([task])
        return task.result()


def facets_of(served: ServedIndex) -> dict[str, dict[str, Any]]:
    """Return, for every column that can be chosen from, its kind, values or range, and nulls.

    Raises:
        IndexStorageError: the index cannot be read.
    """
    return {
        name: _facet(served, name, kind)
        for name, kind in served.kinds().items()
        if name not in _UNIQUE
    }


def _facet(served: ServedIndex, name: str, kind: Kind) -> dict[str, Any]:
    batches = (batch[name] for batch in served.index.scan([name]))
    if kind in ("number", "time"):
        return {"kind": kind, **_range(batches)}
    return {"kind": kind, **_values(batches)}


def _range(columns: "Iterable[pa.Array]") -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    num_nulls, ends = 0, []
    for column in columns:
        num_nulls += column.null_count
        if pa.types.is_timestamp(column.type):  # Python knows no nanoseconds
            column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        found = pc.min_max(column)
        ends += [found["min"].as_py(), found["max"].as_py()]
    present = [end for end in ends if end is not None and end == end]
    low, high = (min(present), max(present)) if present else (None, None)
    return {"min": _plain(low), "max": _plain(high), "nulls": num_nulls}


def _values(columns: "Iterable[pa.Array]") -> dict[str, Any]:
    counts: Counter[Any] = Counter()
    num_nulls, is_cut = 0, False
    for column in columns:
        num_nulls += column.null_count
        for pair in column.drop_null().value_counts().to_pylist():
            if pair["values"] in counts or len(counts) < _MOST_COUNTED:
                counts[pair["values"]] += pair["counts"]
            else:
                is_cut = True
    shown = counts.most_common(_SHOWN)
    return {
        "values": [{"value": value, "count": count} for value, count in shown],
        "has_more": is_cut or len(counts) > len(shown),
        "nulls": num_nulls,
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else value


def status_of(served: ServedIndex) -> dict[str, Any]:
    """Return how many rows there are, whether somebody writes, and what became of items.

    Nothing is written, and no lock is taken that a writer would have to wait for.

    Raises:
        IndexNotFoundError: there is no index any more.
        IndexStorageError: the index cannot be read.
    """
    num_rows = served.fresh().count()  # first: it tells where there is no index any more
    log = OutcomeLog(served.path)
    counts = log.counts()
    failures = []
    if counts["failed"]:
        for outcome in log.latest(["failed"]):
            failures.append(
                {
                    "uri": outcome.uri,
                    "member": outcome.member,
                    "reason": outcome.reason,
                    "message": outcome.message,
                }
            )
            if len(failures) >= _SHOWN_FAILURES:
                break
    return {
        "index": served.name,
        "rows": num_rows,
        "is_being_written": is_being_written(served.path),
        "outcomes": dict(counts),
        "failures": failures,
    }
