"""What a table's columns hold, so that a person can choose filters. One pass over each column."""

import asyncio
import datetime
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from perception_encoder.server.core.filters import Kind
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import WorkPool

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN: Final = 50  # values of one column
_MOST_COUNTED: Final = 10_000  # a column of more different texts is no choice for anybody
_UNIQUE: Final = frozenset(("id", "uri", "member", "sha256", "offset"))


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
        IndexStorageError: the table cannot be read.
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
