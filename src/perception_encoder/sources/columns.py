"""The columns of a table: which one holds the images, and which become metadata."""

import base64
import binascii
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from perception_encoder.errors import ImageUnreadableError, SourceError
from perception_encoder.index import MetadataValue
from perception_encoder.index.schema import FACTS, VECTOR
from perception_encoder.sources.access import FileAccess
from perception_encoder.sources.item import (
    Item,
    escape_name,
    is_unicode,
    make_broken_item,
    scheme_of,
)

ColumnKind: TypeAlias = Literal["name", "bytes", "struct", "other"]
"""Of a column that may hold images: paths or URLs, encoded images, or {bytes, path}."""

_NAMES: Final = (
    "image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes",
    "content", "image_path", "img_path", "path", "filepath", "file_path", "file_name", "filename",
    "file", "image_url", "img_url", "url", "uri", "image_uri",
)  # fmt: skip
_BASE64: Final = frozenset(("bytes", "image_bytes", "base64", "b64", "image_base64", "b64_json"))
_MAX_NAME: Final = 2**16  # characters; signed URLs have a few thousand
_RESERVED: Final = frozenset(("id", *FACTS, VECTOR))
_INT64: Final = range(-(2**63), 2**63)
_NOT_IN_NAMES: Final = re.compile(r"[.`\x00]")
_MAX_LENGTH: Final = 255
_MAX_REMEMBERED: Final = 100_000  # names that have no column, to count each once

MAX_COLUMNS: Final = 256
"""Of metadata, in one source and in an index: writing takes, and every search reads, time for each
column (30,000 took five minutes to index and two to search)."""

MAX_TEXT: Final = 2**20
"""Characters of one value: rows wait in memory by the thousand until they are written."""


def find_image_column(table: str, kinds: Mapping[str, ColumnKind], wanted: str | None) -> str:
    """Return the column with the images.

    Args:
        table: names it in errors.
        kinds: what each column holds, by name.
        wanted: the column that was asked for.

    Raises:
        SourceError: there is none, or not the one that was asked for.
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
    """Refuse columns of one name, as all values of one of them would be lost.

    Raises:
        SourceError: a name is there twice.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SourceError(f"the column {twice[0]!r} is there twice; rename one of them")


def is_base64(column: str) -> bool:
    """Say whether the text in a column of this name is images in base64, not their names."""
    return column.lower() in _BASE64


def row_key(column: str, number: int) -> str:
    """Return the member name of an image that lies in a table itself: `image:123`."""
    return f"{column}:{number}"


def split_row_key(member: str) -> tuple[str, int] | None:
    """Return the column and row number of a member name, or None if it is no row's."""
    column, _, number = member.rpartition(":")
    return (column, int(number)) if column and number.isdecimal() else None


def folder_of(table: str) -> str:
    """Return the folder or URL that a table's relative paths begin at."""
    return table.rpartition("/")[0] if scheme_of(table) else os.path.dirname(table)


def make_named_item(
    access: FileAccess, table: str, name: str, metadata: Mapping[str, MetadataValue], key: str
) -> Item:
    """Return the item of an image whose path or URL is in a table.

    A relative path is relative to the table's folder, or to the current folder where the image
    is there and not in the table's. What is longer than any path is an item that says so; `key`
    names it.
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
    """Return the item of an image whose bytes are in a table."""
    return Item(
        table, read, member=key, mtime=mtime, metadata=metadata, is_remote=bool(scheme_of(table))
    )


def make_empty_item(table: str, key: str) -> Item:
    """Return the item of a cell that holds nothing usable."""
    return make_broken_item(
        table,
        "the cell holds no path, URL or bytes; fill it, or drop the row",
        member=key,
        is_remote=bool(scheme_of(table)),
    )


def decode_base64(text: str, item: str) -> bytes:
    """Return what a text in base64, or a `data:` URL with one, stands for.

    Raises:
        ImageUnreadableError: it is no base64.
    """
    try:
        body = text.partition(",")[2] if text.startswith("data:") else text
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as err:
        raise ImageUnreadableError(
            f"{item}: the text is no base64 ({err}); write the table again", item=item
        ) from err


class MetadataColumns:
    """Gives the names of a source's metadata the names of their columns, the same in every row.

    Names of our own columns get a `_` at their end; dots and backticks, which conditions cannot
    hold, become `_`; a `_` at the start goes; so does what is beyond 255 characters. Of two names
    that would be one column, the later gets a `_` too. After `MAX_COLUMNS` there are no more, and
    texts beyond `MAX_TEXT` characters are left out.
    """

    def __init__(self) -> None:
        self._columns: dict[str, str] = {}
        self._taken = set[str]()
        self._left_out = set[str]()
        self._num_long = 0

    def column(self, name: str) -> str | None:
        """Return a name's column, or None where there are too many already."""
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
        """Forget which values were left out, as they come again."""
        self._num_long = 0

    def notes(self) -> list[str]:
        """Say what was left out."""
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
        """Return what of the values can be metadata, by column.

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
    """Say whether a value can be metadata: one of a kind, or texts, such as several captions."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) for one in value)
    return value is None or isinstance(value, str | int | float)


def to_metadata_value(value: object) -> MetadataValue:
    """Return a scalar as a table can store it; of several texts each becomes a line."""
    if isinstance(value, list):
        value = "\n".join(one for one in value if one) or None
    if isinstance(value, str):
        return value if is_unicode(value) else escape_name(value)
    if isinstance(value, int) and value not in _INT64:
        return float(value) if abs(value) < 10**300 else math.copysign(math.inf, value)
    assert value is None or isinstance(value, bool | int | float)
    return value


class ColumnTypes:
    """Finds one type for each column of a table whose rows are typed one by one.

    Of numbers with and without a fraction the column is one of floats; any other mixture is text.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, type[bool | int | float | str]] = {}

    def see(self, values: Mapping[str, MetadataValue]) -> None:
        """Take a row's values into account."""
        for name, value in values.items():
            if value is None:
                continue
            kind = type(value)
            known = self._kinds.get(name, kind)
            if known is not kind:
                kind = float if {known, kind} == {int, float} else str
            self._kinds[name] = kind

    def fit(self, values: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
        """Return a row's values in their columns' types."""
        return {
            name: value if value is None else self._kinds.get(name, str)(value)
            for name, value in values.items()
        }
