"""The metadata of image files as columns of their rows: from the bytes, and from sidecars.

It is read while a run has the bytes of an image in memory. Sidecars are looked for beside plain
files of this machine; those in buckets are named by the listing of their folder.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import ImageError
from perception_encoder.index import MetadataValue, Row
from perception_encoder.index.rows import to_time
from perception_encoder.index.schema import FILE_COLUMNS
from perception_encoder.metadata import (
    COLUMNS,
    MAX_SIDECAR_BYTES,
    PhotoMetadata,
    SidecarFinder,
    merge_sidecars,
    read_metadata,
    read_video_metadata,
)
from perception_encoder.metadata.photo import ColumnKind
from perception_encoder.metadata.places import PLACE_COLUMNS, has_places, load_places
from perception_encoder.preprocess.files import read_image_file
from perception_encoder.sources.item import Sidecar, scheme_of

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_TAKEN_AT: Final = "taken_at"
_GROUPS: Final = (("taken_at", "taken_offset"), ("latitude", "longitude", "altitude"))
_KINDS: Final[dict[str, ColumnKind]] = {**COLUMNS, **dict.fromkeys(PLACE_COLUMNS, "str")}
_MAX_FOLDERS: Final = 16
_FRESH_SECONDS: Final = 2.0  # a folder that changes all the time is not listed for each photo


class SidecarFolders:
    """Finds the sidecars of photos; each folder is listed once until it changes.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[int, float, SidecarFinder]] = OrderedDict()

    def read(self, path: str) -> list[tuple[str, bytes]]:
        """Return the names and contents of a photo's sidecars, the one that counts most first.

        What cannot be read, or is larger than `MAX_SIDECAR_BYTES`, is left out.
        """
        folder, name = os.path.split(path)
        try:
            finder = self._finder(folder)
        except OSError:
            return []
        contents = []
        for sidecar in finder.find(name):
            place = os.path.join(folder, sidecar)
            try:  # a regular file only: opening a pipe may never end
                data = read_image_file(place, item=place, max_bytes=MAX_SIDECAR_BYTES)
            except ImageError as err:
                logger.debug("%s", err)
                continue
            contents.append((sidecar, data))
        return contents

    def last_change(self, path: str) -> int:
        """Return when a photo's sidecars changed or were moved there; 0 if it has none.

        Nanoseconds since 1970. The time of the file's entry counts, too: copies and unpacked
        archives keep the time of their content.
        """
        folder, name = os.path.split(path)
        times = [0]
        with suppress(OSError):
            for sidecar in self._finder(folder).find(name):
                status = os.stat(os.path.join(folder, sidecar))
                times += [status.st_mtime_ns, status.st_ctime_ns]
        return max(times)

    def forget(self) -> None:
        """List every folder anew."""
        with self._lock:
            self._known.clear()

    def _finder(self, folder: str) -> SidecarFinder:
        changed, now = os.stat(folder).st_mtime_ns, time.monotonic()
        with self._lock:
            known = self._known.get(folder)
            if known is not None and (known[0] == changed or now - known[1] < _FRESH_SECONDS):
                self._known.move_to_end(folder)
                return known[2]
        finder = SidecarFinder(os.listdir(folder))
        with self._lock:
            self._known[folder] = changed, now, finder
            while len(self._known) > _MAX_FOLDERS:
                self._known.popitem(last=False)
        return finder


_folders = SidecarFolders()


def forget_folders() -> None:
    """Look for sidecars anew, at the beginning of a run."""
    _folders.forget()


def find_sidecar_time(path: str) -> int:
    """See `SidecarFolders.last_change`."""
    return _folders.last_change(path)


def read_file_columns(
    uri: str, member: str | None, data: bytes, sidecars: Sequence[Sidecar] = ()
) -> dict[str, MetadataValue]:
    """Return the columns that an image file gives.

    Args:
        uri: of its row.
        member: of its row; an image inside an archive has no sidecars.
        data: the encoded image.
        sidecars: those that a listing names; beside a file of this machine they are looked for.
    """
    has_sidecars = member is None
    return _read_columns(uri, partial(read_metadata, data), sidecars, has_sidecars=has_sidecars)


def read_video_columns(path: str) -> dict[str, MetadataValue]:
    """Return the columns that a video file of this machine gives, for each of its moments."""
    return _read_columns(path, partial(read_video_metadata, path), (), has_sidecars=True)


def _read_columns(
    uri: str,
    read: Callable[[], PhotoMetadata],
    sidecars: Sequence[Sidecar],
    *,
    has_sidecars: bool,
) -> dict[str, MetadataValue]:
    try:
        found = read()
        if has_sidecars:
            contents = _read_sidecars(sidecars) if scheme_of(uri) else _folders.read(uri)
            found = merge_sidecars(found, contents) if contents else found
    except Exception as err:
        logger.warning("%s: its metadata met an error that was not foreseen", uri, exc_info=err)
        return {}
    return dict(found.columns())


def _read_sidecars(sidecars: Sequence[Sidecar]) -> list[tuple[str, bytes]]:
    """Return the names and contents of sidecars, without those that cannot be read."""
    contents = []
    for sidecar in sidecars:
        try:
            contents.append((sidecar.name, sidecar.read()))
        except (ImageError, OSError) as err:
            logger.debug("%s", err)
    return contents


def add_file_columns(
    row: Row, columns: Mapping[str, MetadataValue], schema: pa.Schema
) -> tuple[Row, Counter[str]]:
    """Add the columns of an image file to a row. What the row's source gave is kept.

    Args:
        row: of the image.
        columns: from `read_file_columns`.
        schema: of the index.

    Returns:
        The row, and the values that do not fit the type of a column, which are left out.
    """
    given = {name for name, value in row.metadata.items() if value is not None}
    grouped = set(given)
    for group in _GROUPS:  # the place of a table, and the altitude of a file, are no place
        if given & set(group):
            grouped.update(group)
    left_out = Counter[str]()
    metadata = dict(row.metadata)

    def add(some: Mapping[str, MetadataValue]) -> None:
        for name, value in some.items():
            if name in grouped:
                continue
            if _fits(name, schema):
                metadata[name] = value
            else:
                left_out[name] += 1

    add(columns)
    add(name_place(metadata.get("latitude"), metadata.get("longitude")))
    return replace(row, metadata=metadata), left_out


def read_given_time(row: Row, schema: pa.Schema) -> Row:
    """Return a row with a time for a text `taken_at`, which tables of text cannot give otherwise.

    Args:
        row: of an image.
        schema: of the index; a column of texts keeps the text.
    """
    from pyarrow import types

    written = row.metadata.get(_TAKEN_AT)
    if not isinstance(written, str) or (time := to_time(written)) is None:
        return row
    if _TAKEN_AT in schema.names and not types.is_timestamp(schema.field(_TAKEN_AT).type):
        return row
    return replace(row, metadata={**row.metadata, _TAKEN_AT: time})


def column_type(name: str) -> pa.DataType:
    """Return the type of one of `FILE_COLUMNS`."""
    import pyarrow as pa

    return {
        "datetime": pa.timestamp("us"),
        "int": pa.int64(),
        "float": pa.float64(),
        "str": pa.string(),
    }[_KINDS[name]]


def _fits(name: str, schema: pa.Schema) -> bool:
    """Whether a column that a source made holds what files give, and is not just text for it."""
    from pyarrow import types

    if name not in schema.names:
        return True
    kind = schema.field(name).type
    checks = {
        "datetime": types.is_timestamp,
        "int": lambda kind: types.is_integer(kind) or types.is_floating(kind),
        "float": types.is_floating,
        "str": lambda kind: types.is_string(kind) or types.is_large_string(kind),
    }
    return bool(checks[_KINDS[name]](kind))


def name_place(latitude: object, longitude: object) -> dict[str, MetadataValue]:
    """Return the columns of the nearest town, where the extra `places` is installed."""
    if not isinstance(latitude, float | int) or not isinstance(longitude, float | int):
        return {}
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or not has_places():
        return {}
    town = load_places().nearest(latitude, longitude)
    return {} if town is None else {"place": town.name, "country": town.country}


def given_columns(row: Row) -> set[str]:
    """Return those of `FILE_COLUMNS` that a row's source gave a value for."""
    return {name for name in FILE_COLUMNS if row.metadata.get(name) is not None}
