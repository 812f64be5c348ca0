"""What a table knows of its pictures, held in memory while a run compares sources with it.

64 bytes a row, whatever the lengths of paths: keys and contents as digests, size and time as
numbers. Safe to read from several threads while one adds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.digests import DigestMap, digests_in, digests_of
from perception_encoder.index.rows import FileState, Row

if TYPE_CHECKING:
    import pyarrow as pa

_UNKNOWN = np.iinfo(np.int64).min  # stands for a size or time that the table does not have
_STATE_COLUMNS = ["id", "bytes", "mtime", "sha256"]


class Place(NamedTuple):
    """Names a row: the picture's file, and its name inside it."""

    id: str
    uri: str
    member: str | None


class KnownRows:
    """The states of a table's rows, which of them a run has seen, and whose content they are.

    Args:
        scan: yields those columns of one version of the table, block by block, in its order.
    """

    def __init__(self, scan: Callable[[list[str]], Iterator[pa.RecordBatch]]) -> None:
        self._scan = scan
        self._lock = threading.Lock()
        self._ids, self._contents = DigestMap(), DigestMap()
        self._keys = bytearray()  # 16 bytes a row
        blocks = [_read(batch) for batch in scan(_STATE_COLUMNS)]
        self._states = _joined([block.states for block in blocks], np.int64)
        keys = _joined([block.keys for block in blocks], np.uint64)
        numbers = np.arange(len(keys))
        self._keys += keys.astype(">u8").tobytes()
        self._ids.add(keys, numbers)
        has_content = np.concatenate([np.empty(0, np.bool_), *(b.has_content for b in blocks)])
        contents = _joined([block.contents for block in blocks], np.uint64)
        self._contents.add(contents, numbers[has_content])
        self._seen = np.zeros(len(self._states), np.bool_)

    def __len__(self) -> int:
        return len(self._states)

    def look_up(self, ids: NDArray[np.uint64]) -> list[FileState | None]:
        """Return what the table had of each key when it was read, and note that it was seen.

        Args:
            ids: (N, 2), the keys' `digests_of`.
        """
        numbers = self._ids.find(ids)
        self._seen[numbers[numbers >= 0]] = True
        return [None if number < 0 else self._state(int(number)) for number in numbers]

    def id_of_content(self, sha256: str) -> str | None:
        """Return the key of a row with that content."""
        with self._lock:
            number = int(self._contents.find(digests_of([sha256]))[0])
            return None if number < 0 else self._keys[16 * number : 16 * number + 16].hex()

    def add_contents(self, rows: Sequence[Row]) -> None:
        """Remember the contents of rows that were committed."""
        rows = [row for row in rows if row.sha256 is not None]
        with self._lock:
            first = len(self._keys) // 16
            digests = digests_of([str(row.sha256) for row in rows])
            self._contents.add(digests, np.arange(first, first + len(rows)))
            self._keys += b"".join(bytes.fromhex(row.id) for row in rows)

    def unseen(self) -> Iterator[Place]:
        """Yield the rows, of the table as it was when it was read, that nobody looked up."""
        start = 0
        for batch in self._scan(list(Place._fields)):
            missing = np.flatnonzero(~self._seen[start : start + batch.num_rows])
            start += batch.num_rows
            if missing.size:
                columns = [batch[name].take(missing).to_pylist() for name in Place._fields]
                yield from map(Place._make, zip(*columns, strict=True))

    def _state(self, number: int) -> FileState:
        size, mtime = (
            None if value == _UNKNOWN else value for value in self._states[number].tolist()
        )
        return FileState(size, mtime)


class _Block(NamedTuple):
    """What a block of rows is known by.

    Attributes:
        keys: (R, 2) uint64.
        states: (R, 2) int64: bytes, mtime.
        has_content: (R,) bool.
        contents: (C, 2) uint64, of the rows that have one.
    """

    keys: NDArray[np.uint64]
    states: NDArray[np.int64]
    has_content: NDArray[np.bool_]
    contents: NDArray[np.uint64]


def _read(batch: pa.RecordBatch) -> _Block:
    import pyarrow as pa

    columns = [batch["bytes"], batch["mtime"].cast(pa.int64())]
    return _Block(
        digests_in(batch["id"]),
        np.stack([column.fill_null(_UNKNOWN).to_numpy() for column in columns], axis=1),
        batch["sha256"].is_valid().to_numpy(zero_copy_only=False),
        digests_in(batch["sha256"].drop_null()),
    )


def _joined(parts: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """Return (R, 2) arrays as one."""
    return np.concatenate([np.empty((0, 2), dtype), *parts])
