"""Summaries of an index's columns: values to filter by, folders, and the state of a run.

Each summary reads whole columns, so requests share it: it is computed once for each state of the
index.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from perception_encoder.index import OutcomeLog
from perception_encoder.index.storage import is_being_written
from perception_encoder.index.tiles import TILE_COLUMNS
from perception_encoder.server.core.filters import Kind
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.photo_summaries import Unit, tally_periods
from perception_encoder.server.core.pools import WorkPool

if TYPE_CHECKING:
    import pyarrow as pa

Summary: TypeAlias = dict[str, Any]

MAX_FOLDERS: Final = 2000
_MAX_VALUES: Final = 50  # of one column
_MAX_COUNTED: Final = 10_000  # distinct values of one column, or distinct folders
_UNIQUE: Final = frozenset(("id", "uri", "member", "sha256", "offset", *TILE_COLUMNS))
_MAX_FAILURES: Final = 50
_HISTOGRAMS: Final[dict[str, Unit]] = {"years": "year", "months": "month"}
_MAX_PERIODS: Final = 2400  # 200 years of months; a longer histogram is left out


class Summaries:
    """Summaries of the indexes as they are now, each computed once for all requests.

    Belongs to one event loop.

    Args:
        searches: the threads that look at indexes.
        scans: the threads that read whole columns.
    """

    def __init__(self, searches: WorkPool, scans: WorkPool) -> None:
        self._searches = searches
        self._scans = scans
        self._known: dict[tuple[str, str], tuple[tuple[int, str], asyncio.Task[Summary]]] = {}

    async def get(
        self, served: ServedIndex, summarize: Callable[[ServedIndex], Summary]
    ) -> Summary:
        """Return what `summarize` (`list_facets` or `list_folders`) returns for an index.

        Raises:
            IndexStorageError: the index cannot be read.
            ServingError: too much is waiting, or it takes too long.
        """
        state = await self._searches.run(lambda: served.fresh().state)
        key = (served.name, summarize.__name__)
        known_state, task = self._known.get(key, (None, None))
        if task is None or known_state != state or (task.done() and task.exception() is not None):
            task = asyncio.create_task(self._scans.run(summarize, served))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._known[key] = (state, task)
        # Not awaited itself: other requests wait for the task, too, when this one is cancelled.
        await asyncio.wait([task])
        return task.result()


def list_facets(served: ServedIndex) -> Summary:
    """Return for each column to filter by its kind, its values or range, and its nulls.

    Raises:
        IndexStorageError: the index cannot be read.
    """
    return {
        name: _facet(served, name, kind)
        for name, kind in served.kinds().items()
        if name not in _UNIQUE
    }


def list_folders(served: ServedIndex) -> Summary:
    """Return the folders and archives of an index, by path, with the images in and below each.

    Folders above the first that branches or holds images are left out.

    Raises:
        IndexStorageError: the index cannot be read.
    """
    counts: Counter[str] = Counter()
    archives: set[str] = set()
    is_cut = False
    for batch in served.fresh().scan(["uri", "member"]):
        for (folder, is_archive), count in _count_folders(batch):
            if folder not in counts and len(counts) >= _MAX_COUNTED:
                is_cut = True
                continue
            counts[folder] += count
            if is_archive:
                archives.add(folder)
    totals = _add_parents(counts)
    with_all = [len(path) for path, count in totals.items() if count == counts.total()]
    paths = sorted(path for path in totals if len(path) >= max(with_all, default=0))
    return {
        "folders": [
            {"path": path, "images": totals[path], "filter": _folder_filter(path, archives)}
            for path in paths[:MAX_FOLDERS]
        ],
        "has_more": is_cut or len(paths) > MAX_FOLDERS,
    }


def read_status(served: ServedIndex) -> Summary:
    """Return how many rows there are, whether a run writes, and the outcomes of its items.

    It writes nothing and takes no lock that a writer has to wait for.

    Raises:
        IndexNotFoundError: there is no index any more.
        IndexStorageError: the index cannot be read.
    """
    num_rows = served.fresh().count()  # first: raises where there is no index any more
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
            if len(failures) >= _MAX_FAILURES:
                break
    return {
        "index": served.name,
        "rows": num_rows,
        "is_being_written": is_being_written(served.path),
        "outcomes": dict(counts),
        "failures": failures,
    }


def _facet(served: ServedIndex, name: str, kind: Kind) -> Summary:
    batches = (batch[name] for batch in served.index.scan([name]))
    if kind == "time":
        columns = list(batches)
        return {"kind": kind, **_range(columns), **_periods(columns)}
    if kind == "number":
        return {"kind": kind, **_range(batches)}
    return {"kind": kind, **_values(batches)}


def _range(columns: Iterable[pa.Array]) -> Summary:
    import pyarrow as pa
    import pyarrow.compute as pc

    num_nulls, ends = 0, []
    for column in columns:
        num_nulls += column.null_count
        if pa.types.is_timestamp(column.type):  # Python has no nanoseconds
            column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        found = pc.min_max(column)
        ends += [found["min"].as_py(), found["max"].as_py()]
    present = [end for end in ends if end is not None and end == end]
    low, high = (min(present), max(present)) if present else (None, None)
    return {"min": _plain(low), "max": _plain(high), "nulls": num_nulls}


def _periods(columns: list[pa.Array]) -> Summary:
    """Return the years and months of a column of times with their counts, the earliest first."""
    found: Summary = {}
    for name, unit in _HISTOGRAMS.items():
        counts, _ = tally_periods(columns, unit)
        if len(counts) <= _MAX_PERIODS:
            found[name] = [{"value": period, "count": count} for period, count in counts.items()]
    return found


def _values(columns: Iterable[pa.Array]) -> Summary:
    counts: Counter[Any] = Counter()
    num_nulls, is_cut = 0, False
    for column in columns:
        num_nulls += column.null_count
        for pair in column.drop_null().value_counts().to_pylist():
            if pair["values"] in counts or len(counts) < _MAX_COUNTED:
                counts[pair["values"]] += pair["counts"]
            else:
                is_cut = True
    most_common = counts.most_common(_MAX_VALUES)
    return {
        "values": [{"value": value, "count": count} for value, count in most_common],
        "has_more": is_cut or len(counts) > len(most_common),
        "nulls": num_nulls,
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else value


def _count_folders(batch: pa.RecordBatch) -> Iterable[tuple[tuple[str, bool], int]]:
    """Yield the folder or archive of a block's images, whether it is an archive, and a count."""
    import pyarrow.compute as pc

    is_archive = pc.is_valid(batch["member"])
    parents = pc.replace_substring_regex(batch["uri"], r"[/\\][^/\\]*$", "")
    for flag, column in ((True, batch["uri"]), (False, parents)):
        chosen = column.filter(is_archive if flag else pc.invert(is_archive))
        for pair in chosen.value_counts().to_pylist():
            yield (pair["values"], flag), pair["counts"]


def _add_parents(counts: Counter[str]) -> Counter[str]:
    """Return the images in and below every folder, those above the given ones included."""
    totals: Counter[str] = Counter()
    for folder, count in counts.items():
        path = folder
        while path and not path.endswith(("/", ":")):  # "s3://" is no folder
            totals[path] += count
            path = path[: max(path.rfind("/"), path.rfind("\\"), 0)]
    return totals


def _folder_filter(path: str, archives: set[str]) -> Summary:
    if path in archives:
        return {"column": "uri", "op": "=", "value": path}
    separator = "/" if "/" in path else "\\"
    return {"column": "uri", "op": "starts_with", "value": path + separator}
