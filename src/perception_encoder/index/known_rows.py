"""The state of all rows of an index in memory, for a run to compare its sources with.

It takes 64 bytes per row: ids and contents as digests, size and time as numbers. Several threads
may read while one adds. `pyarrow.compute.index_in` is no replacement: it rebuilds its hash table at
every call (0.4 s for 256 ids among 2 million, against 0.1 ms here).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.rows import FileState, Row
from perception_encoder.index.tiles import TILE_OF
from perception_encoder.video.names import is_moment

if TYPE_CHECKING:
    import pyarrow as pa


HEX_DIGITS: Final = 32
"""Of a digest; longer ones (SHA-256) are truncated. Two agree by chance in one of 10^19 indexes of
ten million rows."""

_VALUES: Final = np.zeros(256, np.uint8)  # of hex digits by their character
_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_UNKNOWN = np.iinfo(np.int64).min  # an unknown size or time
_STATE_COLUMNS = ["id", "bytes", "mtime", "sha256"]


def digests_of(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return the first 32 hex digits of each text as (R, 2) uint64, high half first.

    Texts that are not hex digits may share a digest.
    """
    joined = "".join(text[:HEX_DIGITS].ljust(HEX_DIGITS, "0") for text in texts).encode(
        "ascii", "replace"
    )
    return _digests(np.frombuffer(joined, np.uint8))


def digests_of_column(column: pa.StringArray) -> NDArray[np.uint64]:
    """Return the `digests_of` a column without nulls, without a Python object for each."""
    if not len(column):
        return digests_of([])
    _, offsets, characters = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset :][: len(column) + 1]
    octets = np.frombuffer(characters or b"", np.uint8)[: ends[-1]]
    if np.diff(ends).min() < HEX_DIGITS or octets.max() > ord("~"):  # not our digests
        return digests_of(column.to_pylist())
    return _digests(octets[ends[:-1, np.newaxis] + np.arange(HEX_DIGITS, dtype=np.int32)])


def _digests(characters: NDArray[np.uint8]) -> NDArray[np.uint64]:
    digits = _VALUES[characters].reshape(-1, 2)
    octets = (digits[:, 0] << 4) | digits[:, 1]
    return octets.reshape(-1, 16).view(">u8").astype(np.uint64)


class _SortedDigests(NamedTuple):
    """Digests in ascending order, each once.

    Attributes:
        high: (R,) uint64, the high halves.
        low: (R,) uint64, the low halves.
        numbers: (R,) int64, the number of each.
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    numbers: NDArray[np.int64]

    @classmethod
    def of(
        cls, high: NDArray[np.uint64], low: NDArray[np.uint64], numbers: NDArray[np.int64]
    ) -> Self:
        """Sort digests; of equal ones the last is kept."""
        order = np.argsort(high, kind="stable")  # what is sorted in parts is only merged
        high, low, numbers = high[order], low[order], numbers[order]
        is_tied = high[1:] == high[:-1]
        if (is_tied & (low[1:] != low[:-1])).any():
            order = np.lexsort((low, high))
            high, low, numbers = high[order], low[order], numbers[order]
            is_tied = high[1:] == high[:-1]
        is_last = np.ones(len(high), np.bool_)
        is_last[:-1] = ~(is_tied & (low[1:] == low[:-1]))
        return cls(high[is_last], low[is_last], numbers[is_last])

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the number of each of the (Q, 2) digests as (Q,) int64, -1 if there is none."""
        found = np.full(len(digests), -1, np.int64)
        if len(self.high) == 0:
            return found
        first = np.searchsorted(self.high, digests[:, 0])
        waiting = np.arange(len(digests))
        while waiting.size:  # more than once only for digests with equal high halves
            place = first[waiting]
            inside = place < len(self.high)
            waiting, place = waiting[inside], place[inside]
            same_high = self.high[place] == digests[waiting, 0]
            waiting, place = waiting[same_high], place[same_high]
            equal = self.low[place] == digests[waiting, 1]
            found[waiting[equal]] = self.numbers[place[equal]]
            waiting = waiting[~equal]
            first[waiting] += 1
        return found


class DigestMap:
    """Maps digests to numbers; of two numbers of a digest the later wins.

    Digests are in sorted parts, each at least twice as large as the next: adding sorts few of them
    again, and finding looks into few parts.

    It is not safe to add and find at the same time from several threads.

    Args:
        max_recent: up to this many of the last digests wait unsorted.
    """

    def __init__(self, max_recent: int = 1 << 16) -> None:
        self._max_recent = max_recent
        self._parts: list[_SortedDigests] = []  # the oldest and largest first
        self._recent: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.numbers())

    def add(self, digests: NDArray[np.uint64], numbers: NDArray[np.int64]) -> None:
        """Add numbers.

        Args:
            digests: (R, 2) uint64, from `digests_of`.
            numbers: (R,) int64, at least 0.
        """
        if len(digests) > self._max_recent:
            self._store_recent()
            self._store(digests, numbers)
            return
        keys = map(tuple, digests.tolist())
        self._recent.update(zip(keys, numbers.tolist(), strict=True))
        if len(self._recent) > self._max_recent:
            self._store_recent()

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the number of each of the (Q, 2) digests as (Q,) int64, -1 if there is none."""
        found = np.full(len(digests), -1, np.int64)
        for part in self._parts:
            later = part.find(digests)
            found = np.where(later >= 0, later, found)
        if self._recent:
            for place, key in enumerate(map(tuple, digests.tolist())):
                number = self._recent.get(key)
                if number is not None:
                    found[place] = number
        return found

    def numbers(self) -> NDArray[np.int64]:
        """Return all numbers, in no particular order."""
        self._store_recent()
        while len(self._parts) > 1:
            self._join_last()
        return self._parts[0].numbers if self._parts else np.empty(0, np.int64)

    def _store_recent(self) -> None:
        if self._recent:
            digests = np.array(list(self._recent), np.uint64).reshape(-1, 2)
            numbers = np.fromiter(self._recent.values(), np.int64, len(self._recent))
            self._recent.clear()
            self._store(digests, numbers)

    def _store(self, digests: NDArray[np.uint64], numbers: NDArray[np.int64]) -> None:
        self._parts.append(_SortedDigests.of(digests[:, 0], digests[:, 1], numbers))
        while len(self._parts) > 1 and len(self._parts[-2].high) < 2 * len(self._parts[-1].high):
            self._join_last()

    def _join_last(self) -> None:
        later, earlier = self._parts.pop(), self._parts.pop()
        joined = _SortedDigests.of(
            np.concatenate([earlier.high, later.high]),
            np.concatenate([earlier.low, later.low]),
            np.concatenate([earlier.numbers, later.numbers]),
        )
        self._parts.append(joined)


class RowLocation(NamedTuple):
    """Identifies a row: its id, the file, and the name inside the file."""

    id: str
    uri: str
    member: str | None


class KnownRows:
    """The states of an index's rows, which of them a run has seen, and their contents.

    Args:
        scan: yields columns of one version of the index, block by block.
        scan_videos: likewise, of rows that may be segments of videos; None if there are none.
        has_tiles: whether rows may be tiles of images.
    """

    def __init__(
        self,
        scan: Callable[[list[str]], Iterator[pa.RecordBatch]],
        scan_videos: Callable[[list[str]], Iterator[pa.RecordBatch]] | None = None,
        *,
        has_tiles: bool = False,
    ) -> None:
        self._scan = scan
        self._has_tiles = has_tiles
        self._lock = threading.Lock()
        self._ids, self._contents = DigestMap(), DigestMap()
        self._keys = bytearray()  # 16 bytes a row
        state_columns = [*_STATE_COLUMNS, *([TILE_OF] if has_tiles else [])]
        blocks = [_read(batch) for batch in scan(state_columns)]
        self._states = _joined([block.states for block in blocks], np.int64)
        keys = _joined([block.keys for block in blocks], np.uint64)
        numbers = np.arange(len(keys))
        self._keys += keys.astype(">u8").tobytes()
        self._ids.add(keys, numbers)
        has_content = np.concatenate([np.empty(0, np.bool_), *(b.has_content for b in blocks)])
        contents = _joined([block.contents for block in blocks], np.uint64)
        self._contents.add(contents, numbers[has_content])
        self._seen = np.zeros(len(self._states), np.bool_)
        self._videos: dict[str, list[str]] = {}  # ids of the segments, by URI
        for batch in scan_videos(["id", "uri", "member"]) if scan_videos is not None else ():
            columns = (batch[name].to_pylist() for name in ("id", "uri", "member"))
            for key, uri, member in zip(*columns, strict=True):
                if is_moment(uri, member):
                    self._videos.setdefault(uri, []).append(key)

    def __len__(self) -> int:
        return len(self._states)

    def look_up(self, ids: NDArray[np.uint64]) -> list[FileState | None]:
        """Return the state of each id, and mark it as seen.

        Args:
            ids: (N, 2), the `digests_of` the ids.
        """
        numbers = self._ids.find(ids)
        self._seen[numbers[numbers >= 0]] = True
        return [None if number < 0 else self._state(int(number)) for number in numbers]

    def look_up_video(self, uri: str) -> FileState | None:
        """Return the state of a video file, None if it is new; mark its segments as seen."""
        ids = self._videos.get(uri)
        return None if ids is None else self.look_up(digests_of(ids))[0]

    def id_of_content(self, sha256: str) -> str | None:
        """Return the id of a row with this content, or None."""
        with self._lock:
            number = int(self._contents.find(digests_of([sha256]))[0])
            return None if number < 0 else self._keys[16 * number : 16 * number + 16].hex()

    def add_contents(self, rows: Sequence[Row]) -> None:
        """Add the contents of rows that were committed."""
        rows = [row for row in rows if row.sha256 is not None and row.tile_of is None]
        with self._lock:
            first = len(self._keys) // 16
            digests = digests_of([str(row.sha256) for row in rows])
            self._contents.add(digests, np.arange(first, first + len(rows)))
            self._keys += b"".join(bytes.fromhex(row.id) for row in rows)

    def unseen(self) -> Iterator[RowLocation]:
        """Yield the rows that have not been looked up; of a tile, its image decides."""
        start = 0
        columns = [*RowLocation._fields, *([TILE_OF] if self._has_tiles else [])]
        for batch in self._scan(columns):
            missing = np.flatnonzero(~self._seen[start : start + batch.num_rows])
            start += batch.num_rows
            if self._has_tiles and missing.size:
                missing = missing[~self._is_of_seen_image(batch[TILE_OF].take(missing))]
            if missing.size:
                columns = [batch[name].take(missing).to_pylist() for name in RowLocation._fields]
                yield from map(RowLocation._make, zip(*columns, strict=True))

    def _is_of_seen_image(self, images: pa.StringArray) -> NDArray[np.bool_]:
        """Return (R,) whether a row is a tile of an image that has been looked up."""
        numbers = self._ids.find(digests_of(images.fill_null("").to_pylist()))
        is_tile = images.is_valid().to_numpy(zero_copy_only=False)
        seen: NDArray[np.bool_] = is_tile & (numbers >= 0) & self._seen[numbers]
        return seen

    def _state(self, number: int) -> FileState:
        size, mtime = (
            None if value == _UNKNOWN else value for value in self._states[number].tolist()
        )
        return FileState(size, mtime)


class _Block(NamedTuple):
    """Digests and states of a block of rows.

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
    import pyarrow.compute as pc

    columns = [batch["bytes"], batch["mtime"].cast(pa.int64())]
    contents = batch["sha256"]
    if TILE_OF in batch.schema.names:  # the content is the image's
        contents = pc.if_else(batch[TILE_OF].is_valid(), None, contents)
    return _Block(
        digests_of_column(batch["id"]),
        np.stack([column.fill_null(_UNKNOWN).to_numpy() for column in columns], axis=1),
        contents.is_valid().to_numpy(zero_copy_only=False),
        digests_of_column(contents.drop_null()),
    )


def _joined(parts: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """Return (R, 2) arrays as one."""
    return np.concatenate([np.empty((0, 2), dtype), *parts])
