"""Reads the metadata of indexed image files again, without embedding anything.

For an index made before metadata was read, and after sidecars have changed. The work goes fragment
by fragment; a file beside the index says how far it is, so a run that was killed goes on there.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from perception_encoder.atomic import atomic_write
from perception_encoder.index import Index, MetadataValue, Row, write_lock
from perception_encoder.index.schema import FILE_COLUMNS, rows_of
from perception_encoder.index.snapshot import FragmentScan
from perception_encoder.index.storage import is_remote, sidecar_path
from perception_encoder.index.tiles import image_member
from perception_encoder.indexing.photo_metadata import (
    add_file_columns,
    column_type,
    forget_folders,
    read_file_columns,
    read_video_columns,
)
from perception_encoder.metadata.places import PLACE_COLUMNS, has_places
from perception_encoder.preprocess import num_usable_cores
from perception_encoder.sources import open_image, read_image
from perception_encoder.sources.folder import list_remote_sidecars
from perception_encoder.sources.item import Sidecar, is_web, scheme_of
from perception_encoder.video.names import is_moment

if TYPE_CHECKING:
    import pyarrow as pa

_REMOTE_THREADS: Final = 16
_ROWS_AT_ONCE: Final = 256
_ROWS_OF_A_COMMIT: Final = 2048
_FILES_AT_ONCE: Final = 1000
_COMMITS_OF_A_FRAGMENT: Final = 20
"""Each writes the columns of the whole fragment again, so large fragments get larger commits."""

_HEAD_BYTES: Final = 2**18  # of a JPEG file; most have all of their metadata there
_MARKER: Final = 0xFF
_SCAN: Final = 0xDA
_END: Final = 0xD9
_OFFSET_BITS: Final = 32  # of Lance's row ids; the others number the fragment
_ROW_ID: Final = "_rowid"
_ALL: Final = -1
_NEEDED: Final = frozenset(("uri", "member", "offset", "bytes", *FILE_COLUMNS))


@dataclass(slots=True)
class RefreshProgress:
    """Counts of a refresh.

    Attributes:
        num_rows: of the index.
        num_done: rows whose files were read, in this run or the one that it continues.
        num_changed: rows whose columns changed, in this run.
        num_failed: rows whose files could not be read; their columns are as before.
        left_out: by column, values that do not fit the type of a column that a source made.
    """

    num_rows: int = 0
    num_done: int = 0
    num_changed: int = 0
    num_failed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """Describe what was left out."""
        return [
            f"metadata {name!r}: {count:,} values do not fit the column of that name, which a "
            "table made, and were left out"
            for name, count in self.left_out.items()
        ]


class UnreadFile(NamedTuple):
    """An indexed image whose file could not be read, and why."""

    uri: str
    member: str | None
    message: str


class _Refreshed(NamedTuple):
    """The columns of a row before and after; `error` if its file could not be read."""

    row: Row
    offset: int
    columns: Mapping[str, MetadataValue]
    error: str | None = None


class _Pools(NamedTuple):
    """Threads that read files of this machine, and files on a network."""

    local: ThreadPoolExecutor
    remote: ThreadPoolExecutor


class MetadataRefresh:
    """Reads the metadata of all image files of an index; `unread` does the work.

    Args:
        index: the index.
        wait: wait for another run on the index instead of raising.
    """

    def __init__(self, index: Index, *, wait: bool = False) -> None:
        self._index = index
        self._wait = wait
        self._state_path = sidecar_path(index.path, "refresh.json")
        self._finished: dict[str, int] = {}  # by fragment, the first offset that is not done
        self._columns: list[str] = []  # of the version that is read
        self.progress = RefreshProgress()

    def unread(self) -> Generator[list[UnreadFile], None, None]:
        """Do the work; after each block of files, yield those that could not be read.

        The columns that files fill are replaced: a tag that is gone becomes null. In columns that
        tables gave values for, only gaps are filled.

        Raises:
            IndexBusyError: another process is writing to the index.
            IndexStorageError: it cannot be read or written; earlier commits are kept.
        """
        with write_lock(self._index.path, wait=self._wait):
            self._index.refresh()
            forget_folders()
            _remote_sidecars.cache_clear()
            choice = self._index.metadata_choice
            self._index.remember(choice._replace(reads=True))
            fragments = self._index.fragments()
            self.progress.num_rows = sum(fragment.num_rows for fragment in fragments)
            self._finished = self._read_state()
            self._columns = [name for name in self._index.schema.names if name in _NEEDED]
            with (
                ThreadPoolExecutor(num_usable_cores(), "metadata") as local,
                ThreadPoolExecutor(_REMOTE_THREADS, "fetch") as remote,
            ):
                pools = _Pools(local, remote)
                for fragment in fragments:
                    if self._finished.get(fragment.file) == _ALL:
                        self.progress.num_done += fragment.num_rows
                    else:
                        yield from self._refresh(fragment, pools)
                        self._note(fragment, _ALL)
            with suppress(OSError):
                os.remove(self._state_path)

    def _refresh(
        self, fragment: FragmentScan, pools: _Pools
    ) -> Generator[list[UnreadFile], None, None]:
        """Refresh a fragment, from where an interrupted refresh ended."""
        rows_of_a_commit = max(_ROWS_OF_A_COMMIT, fragment.num_rows // _COMMITS_OF_A_FRAGMENT)
        waiting: list[_Refreshed] = []
        rows = self._rows(fragment, self._finished.get(fragment.file, 0))
        while block := list(islice(rows, _ROWS_AT_ONCE)):
            futures = [
                (pools.remote if scheme_of(row.uri) else pools.local).submit(_read, row, offset)
                for row, offset in block
            ]
            waiting += (found := [future.result() for future in futures])
            unread = [
                UnreadFile(one.row.uri, one.row.member, one.error)
                for one in found
                if one.error is not None
            ]
            self.progress.num_done += len(found)
            self.progress.num_failed += len(unread)
            if len(waiting) >= rows_of_a_commit:
                self._commit(fragment, waiting)
                self._note(fragment, waiting[-1].offset + 1)
                waiting = []
            yield unread
        self._commit(fragment, waiting)

    def _rows(self, fragment: FragmentScan, done: int) -> Iterator[tuple[Row, int]]:
        for batch in fragment.scan([*self._columns, _ROW_ID]):
            offsets = [int(one) & (1 << _OFFSET_BITS) - 1 for one in batch[_ROW_ID].to_pylist()]
            self.progress.num_done += sum(offset < done for offset in offsets)
            columns = batch.drop_columns([_ROW_ID])
            pairs = zip(rows_of(columns), offsets, strict=True)
            yield from ((row, offset) for row, offset in pairs if offset >= done)

    def _commit(self, fragment: FragmentScan, found: Sequence[_Refreshed]) -> None:
        """Write the columns of rows, unless all of them are as before."""
        changed = _changed_rows(self._index, found, self.progress)
        if changed:
            self._index.replace_columns(fragment.id, _make_table(changed, self._index.schema))

    def _read_state(self) -> dict[str, int]:
        """Return how far an interrupted refresh came."""
        if is_remote(self._index.path):
            return {}
        with suppress(OSError, ValueError), open(self._state_path, encoding="utf-8") as file:
            found = json.load(file)
            if isinstance(found, dict):
                return {str(k): v for k, v in found.items() if isinstance(v, int)}
        return {}

    def _note(self, fragment: FragmentScan, done: int) -> None:
        """Store how far this is. If that fails, an interrupted refresh begins again."""
        self._finished[fragment.file] = done
        if is_remote(self._index.path):
            return
        with suppress(OSError):
            os.makedirs(os.path.dirname(self._state_path), exist_ok=True)
            with atomic_write(self._state_path) as temporary:
                temporary.write_text(json.dumps(self._finished), encoding="utf-8")


def refresh_files(index: Index, files: Mapping[str, Sequence[Sidecar]]) -> RefreshProgress:
    """Read the metadata of some files again. The caller holds the write lock.

    Their rows are written anew, which takes less time than the columns of all rows.

    Args:
        index: the index.
        files: by URI, the sidecars that a listing names; those of this machine are looked for.

    Raises:
        IndexStorageError: it cannot be read or written; earlier commits are kept.
    """
    progress = RefreshProgress()
    forget_folders()
    uris = iter(sorted(files))
    with ThreadPoolExecutor(_REMOTE_THREADS, "metadata") as pool:
        while block := list(islice(uris, _FILES_AT_ONCE)):
            quoted = ", ".join("'" + uri.replace("'", "''") + "'" for uri in block)
            batches = index.scan([_ROW_ID], where=f"uri IN ({quoted})", tiles=True)
            row_ids = [key for batch in batches for key in batch[_ROW_ID].to_pylist()]
            rows = index.rows_with_vectors(row_ids)
            vectors = {row.id: vector for row, vector in rows.values()}
            found = list(pool.map(lambda one: _read(one[0], 0, files[one[0].uri]), rows.values()))
            changed = _changed_rows(index, found, progress)
            if changed:
                index.add(changed, np.stack([vectors[row.id] for row in changed]))
            progress.num_rows += len(found)
            progress.num_failed += sum(one.error is not None for one in found)
    return progress


def _changed_rows(
    index: Index, found: Sequence[_Refreshed], progress: RefreshProgress
) -> list[Row]:
    """Return the rows that have other metadata now, and give the index their columns."""
    import pyarrow as pa

    kept = index.metadata_choice.source_columns
    if not has_places():
        kept |= frozenset(PLACE_COLUMNS)
    replaced = frozenset(FILE_COLUMNS) - kept
    changed: list[Row] = []
    for one in found:
        if one.error is not None:
            continue
        given = {key: value for key, value in one.row.metadata.items() if key not in replaced}
        row, left_out = add_file_columns(
            replace(one.row, metadata=given), one.columns, index.schema
        )
        progress.left_out += left_out
        if row.metadata != one.row.metadata:
            changed.append(row)
    filled = {name for row in changed for name in row.metadata}
    if changed:
        index.add_columns(
            [pa.field(name, column_type(name)) for name in FILE_COLUMNS if name in filled]
        )
    progress.num_changed += len(changed)
    return changed


def _read(row: Row, offset: int, sidecars: Sequence[Sidecar] | None = None) -> _Refreshed:
    """Read the columns of a row's file; None lists the sidecars of a file on a network."""
    try:
        if is_moment(row.uri, row.member):
            os.stat(row.uri)  # a file that is gone says nothing
            return _Refreshed(row, offset, read_video_columns(row.uri))
        data, member = _read_bytes(row), image_member(row.member)
        if sidecars is None:
            sidecars = _list_sidecars(row)
        return _Refreshed(row, offset, read_file_columns(row.uri, member, data, sidecars))
    except Exception as err:  # noqa: BLE001  one file of many: it is counted and reported
        message = str(err) or type(err).__name__
        error = message if row.name in message else f"{row.name}: {message}"
        return _Refreshed(row, offset, {}, error)


def _list_sidecars(row: Row) -> Sequence[Sidecar]:
    if row.member is not None or not scheme_of(row.uri) or is_web(row.uri):
        return ()
    return _remote_sidecars(posixpath.dirname(row.uri)).find(row.uri)


_remote_sidecars = lru_cache(16)(list_remote_sidecars)


def _read_bytes(row: Row) -> bytes:
    """Read an image; of a JPEG file on this machine only what comes before the image data."""
    image = None if scheme_of(row.uri) else open_image(row.uri, row.member, row.offset)
    if image is None:
        return read_image(row.uri, row.member, row.offset, row.bytes)
    with image.file:
        head = image.read(0, _HEAD_BYTES)
        if len(head) == image.num_bytes or _has_whole_header(head):
            return head
        return head + image.read(len(head), image.num_bytes - len(head))


def _has_whole_header(head: bytes) -> bool:
    """Whether the beginning of a JPEG file has every segment that may hold metadata."""
    position = 2
    while head.startswith(b"\xff\xd8\xff") and position + 4 <= len(head):
        if head[position] != _MARKER:
            return False
        kind = head[position + 1]
        if kind in (_SCAN, _END):
            return True
        is_fill = kind == _MARKER
        size = int.from_bytes(head[position + 2 : position + 4], "big")
        position += 1 if is_fill else 2 + max(2, size)
    return False


def _make_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Return all columns that files fill and the index has, with the ids of the rows."""
    import pyarrow as pa

    fields = [schema.field(name) for name in FILE_COLUMNS if name in schema.names]
    columns = [pa.array([row.metadata.get(one.name) for row in rows], one.type) for one in fields]
    ids = pa.array([row.id for row in rows], pa.string())
    return pa.table([ids, *columns], schema=pa.schema([schema.field("id"), *fields]))
