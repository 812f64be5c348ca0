"""Which column of a table holds the images. Knows no file formats."""

import base64
import binascii
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from perception_encoder.errors import ImageUnreadableError, SourceError
from perception_encoder.index import MetadataValue
from perception_encoder.sources.access import FileAccess
from perception_encoder.sources.item import Item, broken, scheme

ColumnKind: TypeAlias = Literal["name", "bytes", "struct", "other"]
"""Of a column that may hold images: paths or URLs, encoded images, or {bytes, path}."""

_NAMES: Final = (
    "image", "img", "image", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes",
    "content", "image_path", "img_path", "path", "filepath", "file_path", "file_name", "filename",
    "file", "image_url", "img_url", "url", "uri", "image_uri",
)  # fmt: skip
_BASE64: Final = frozenset(("bytes", "image_bytes", "base64", "b64", "image_base64", "b64_json"))
_MAX_NAME: Final = 2**16  # characters; signed URLs have a few thousand


def image_column(table: str, kinds: Mapping[str, ColumnKind], wanted: str | None) -> str:
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
    return table.rpartition("/")[0] if scheme(table) else os.path.dirname(table)


def named_item(
    access: FileAccess, table: str, name: str, metadata: Mapping[str, MetadataValue], key: str
) -> Item:
    """Return the item of an image whose path or URL is in a table.

    A relative path is relative to the table's folder, or to the current folder where the image
    is there and not in the table's. What is longer than any path is an item that says so; `key`
    names it.
    """
    if len(name) > _MAX_NAME:
        return broken(
            table,
            f"the cell holds a text of {len(name):,} characters, which is no path or URL",
            member=key,
            is_remote=bool(scheme(table)),
        )
    item = access.item(name, folder_of(table))
    if not item.is_remote and item.bytes is None and os.path.isfile(name):
        item = access.item(name)
    return replace(item, metadata=metadata)


def stored_item(
    table: str,
    key: str,
    read: Callable[[], bytes],
    mtime: int | None,
    metadata: Mapping[str, MetadataValue],
) -> Item:
    """Return the item of an image whose bytes are in a table."""
    return Item(
        table, read, member=key, mtime=mtime, metadata=metadata, is_remote=bool(scheme(table))
    )


def empty_item(table: str, key: str) -> Item:
    """Return the item of a cell that holds nothing usable."""
    return broken(
        table,
        "the cell holds no path, URL or bytes; fill it, or drop the row",
        member=key,
        is_remote=bool(scheme(table)),
    )


def from_base64(text: str, item: str) -> bytes:
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
