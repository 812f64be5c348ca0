"""The columns of a table: which one holds the images, and which become metadata."""

import base64
import binascii
import datetime
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from perception_encoder.errors import ImageUnreadableError, SourceError
from perception_encoder.index import MetadataValue
from perception_encoder.index.rows import to_time
from perception_encoder.index.schema import ROW_COLUMNS, VECTOR
from perception_encoder.sources.access import FileAccess
from perception_encoder.sources.item import (
    Item,
    escape_name,
    is_unicode,
    make_broken_item,
    scheme_of,
)

ColumnKind: TypeAlias = Literal["name", "bytes", "struct", "other"]
"""The content of a column: paths or URLs, encoded images, {bytes, path}, or something else."""

_NAMES: Final = (
    "image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes",
    "content", "image_path", "img_path", "path", "filepath", "file_path", "file_name", "filename",
    "file", "image_url", "img_url", "url", "uri", "image_uri",
)  # fmt: skip
_BASE64: Final = frozenset(("bytes", "image_bytes", "base64", "b64", "image_base64", "b64_json"))
_MAX_NAME: Final = 2**16  # characters; signed URLs have a few thousand
_RESERVED: Final = frozenset(("id", *ROW_COLUMNS, VECTOR))
_INT64: Final = range(-(2**63), 2**63)
_NOT_IN_NAMES: Final = re.compile(r"[.`\x00]")
_MAX_LENGTH: Final = 255
_MAX_REMEMBERED: Final = 100_000  # names that have no column, to count each once

MAX_COLUMNS: Final = 256
"""Metadata columns of one source and of an index. Each costs time in every write and search: with
30,000, indexing took five minutes and a search two."""

MAX_TEXT: Final = 2**20
"""Characters of one value. Thousands of rows wait in memory until they are written."""


def find_image_column(table: str, kinds: Mapping[str, ColumnKind], wanted: str | None) -> str:
    """Return the column with the images.

    Args:
        table: the table's name in errors.
        kinds: the kind of each column.
        wanted: the column that the user chose.

    Raises:
        SourceError: there is none, or the chosen one does not exist or holds no images.
    """
    known = ", ".join(kinds) or "none"
    if wanted is not None:
        if wanted not in kinds:
            raise SourceError(f"{table}: there is no column {wanted!r}; its columns: {known}")
        if kinds[wanted] == "other":
            raise SourceError(
                f"{table}: the column {wanted!r} holds neither paths, URLs nor bytes; "
                f"its columns: {known}"
            )
        return wanted
    by_name: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind != "other":
            by_name.setdefault(name.lower(), name)
    for name in _NAMES:
        if name in by_name:
            return by_name[name]
    holding_bytes = [name for name, kind in kinds.items() if kind in ("bytes", "struct")]
    if len(holding_bytes) == 1:
        return holding_bytes[0]
    raise SourceError(
        f"{table}: no column looks like images; name the one that holds their paths, URLs or "
        f"bytes (--column); its columns: {known}"
    )


def check_unique(names: Sequence[str]) -> None:
    """Refuse two columns with one name, as the values of one would be lost.

    Raises:
        SourceError: a name is there twice.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SourceError(f"the column {twice[0]!r} is there twice; rename one of them")


def is_base64(column: str) -> bool:
    """Whether text in a column of this name is images as base64."""
    return column.lower() in _BASE64


def row_key(column: str, number: int) -> str:
    """Return the member name of an image that is stored in a table: `image:123`."""
    return f"{column}:{number}"


def split_row_key(member: str) -> tuple[str, int] | None:
    """Return the column and the row number in a member name, or None."""
    column, _, number = member.rpartition(":")
    return (column, int(number)) if column and number.isdecimal() else None


def folder_of(table: str) -> str:
    """Return the folder or URL that the relative paths in a table refer to."""
    return table.rpartition("/")[0] if scheme_of(table) else os.path.dirname(table)


def make_named_item(
    access: FileAccess, table: str, name: str, metadata: Mapping[str, MetadataValue], key: str
) -> Item:
    """Return the item of an image whose path or URL is in a table.

    A relative path refers to the table's folder, or else to the current folder. A text that is too
    long for a path becomes an item, named by `key`, that cannot be read.
    """
    if len(name) > _MAX_NAME:
        return make_broken_item(
            table,
            f"the cell holds a text of {len(name):,} characters, which is no path or URL",
            member=key,
            is_remote=bool(scheme_of(table)),
        )
    item = access.item(name, folder_of(table))
    if not item.is_remote and item.bytes is None and os.path.isfile(name):
        item = access.item(name)
    return replace(item, metadata=metadata)


def make_stored_item(
    table: str,
    key: str,
    read: Callable[[], bytes],
    mtime: int | None,
    metadata: Mapping[str, MetadataValue],
) -> Item:
    """Return the item of an image that is stored in a table."""
    return Item(
        table, read, member=key, mtime=mtime, metadata=metadata, is_remote=bool(scheme_of(table))
    )


def make_empty_item(table: str, key: str) -> Item:
    """Return the item of a cell without an image."""
    return make_broken_item(
        table,
        "the cell holds no path, URL or bytes; fill it, or drop the row",
        member=key,
        is_remote=bool(scheme_of(table)),
    )


def decode_base64(text: str, item: str) -> bytes:
    """Decode a text in base64, or a `data:` URL.

    Raises:
        ImageUnreadableError: it is not base64.
    """
    try:
        body = text.partition(",")[2] if text.startswith("data:") else text
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as err:
        raise ImageUnreadableError(
            f"{item}: the text is not base64 ({err}); write the table again", item=item
        ) from err


class MetadataColumns:
    """Maps the names of a source's metadata to columns, the same for every row.

    Names of the index's own columns get a `_` at the end. Dots and backticks, which conditions
    cannot contain, become `_`. A leading `_` and what is beyond 255 characters are removed. If two
    names would share a column, the later gets a `_` as well. Names after `MAX_COLUMNS` and texts
    longer than `MAX_TEXT` are left out.
    """

    def __init__(self) -> None:
        self._columns: dict[str, str] = {}
        self._taken = set[str]()
        self._left_out = set[str]()
        self._num_long = 0

    def column(self, name: str) -> str | None:
        """Return the column of a name, or None if there are too many."""
        column = self._columns.get(name)
        if column is None and len(self._taken) < MAX_COLUMNS:
            column = self._columns[name] = self._new_column(name)
        elif column is None and len(self._left_out) < _MAX_REMEMBERED:
            self._left_out.add(name)
        return column

    def value(self, value: object) -> MetadataValue:
        """Return the value to store, see `to_metadata_value`; None for a text that is too long."""
        value = to_metadata_value(value)
        if isinstance(value, str) and len(value) > MAX_TEXT:
            self._num_long += 1
            return None
        return value

    def count_anew(self) -> None:
        """Reset the count of values that were left out."""
        self._num_long = 0

    def notes(self) -> list[str]:
        """Describe what was left out."""
        notes = []
        if self._num_long:
            notes.append(
                f"{self._num_long:,} texts of metadata are longer than {MAX_TEXT:,} characters and "
                "were left out"
            )
        if self._left_out:
            at_least = "at least " if len(self._left_out) == _MAX_REMEMBERED else ""
            notes.append(
                f"{at_least}{len(self._left_out):,} columns of metadata were left out (such as "
                f"{min(self._left_out)!r}): the limit is {MAX_COLUMNS}; write a table of fewer"
            )
        return notes

    def columns(self, names: Iterable[str]) -> dict[str, str]:
        """Return the column of each name that has one."""
        found = ((name, self.column(name)) for name in names)
        return {name: column for name, column in found if column is not None}

    def scalars(self, values: Mapping[str, object]) -> dict[str, MetadataValue]:
        """Return the values that can be metadata, by column.

        Mappings, bytes, and lists of anything but texts are left out.
        """
        columns = self.columns(name for name, value in values.items() if is_scalar(value))
        return {column: self.value(values[name]) for name, column in columns.items()}

    def _new_column(self, name: str) -> str:
        column = _NOT_IN_NAMES.sub("_", escape_name(name)).lstrip("_")[:_MAX_LENGTH] or "column"
        while column.lower() in _RESERVED or column in self._taken:
            column += "_"
        self._taken.add(column)
        return column


def is_scalar(value: object) -> bool:
    """Whether a value can be metadata: a scalar, or a list of texts such as captions."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) for one in value)
    return value is None or isinstance(value, str | int | float)


def to_metadata_value(value: object) -> MetadataValue:
    """Return a value as an index can store it; a list of texts becomes lines."""
    if isinstance(value, list):
        value = "\n".join(one for one in value if one) or None
    if isinstance(value, str):
        return value if is_unicode(value) else escape_name(value)
    if isinstance(value, datetime.datetime):
        return to_time(value)
    if isinstance(value, int) and value not in _INT64:
        return float(value) if abs(value) < 10**300 else math.copysign(math.inf, value)
    assert value is None or isinstance(value, bool | int | float)
    return value


class ColumnTypes:
    """Finds one type for each column of a text table from the values of all rows.

    A mixture of integers and floats is float; any other mixture is text.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, type[bool | int | float | str]] = {}

    def see(self, values: Mapping[str, MetadataValue]) -> None:
        """Add the values of a row."""
        for name, value in values.items():
            if value is None:
                continue
            assert not isinstance(value, datetime.datetime)  # they are texts in a text table
            kind = type(value)
            known = self._kinds.get(name, kind)
            if known is not kind:
                kind = float if {known, kind} == {int, float} else str
            self._kinds[name] = kind

    def fit(self, values: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
        """Convert the values of a row to the types of their columns."""
        return {
            name: self._kinds.get(name, str)(value)
            if isinstance(value, bool | int | float | str)
            else value
            for name, value in values.items()
        }
