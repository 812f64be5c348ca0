"""From a cell of a table, whatever its format, to the item of the picture it means."""

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.index import MetadataValue
from perception_encoder.pipeline.sources.access import Access
from perception_encoder.pipeline.sources.item import Item, broken
from perception_encoder.pipeline.sources.names import scheme

_MAX_NAME: Final = 2**16  # characters; signed URLs have a few thousand


def folder_of(table: str) -> str:
    """Return the folder or URL that a table's relative paths begin at."""
    return table.rpartition("/")[0] if scheme(table) else os.path.dirname(table)


def named_item(
    access: Access, table: str, name: str, metadata: Mapping[str, MetadataValue], key: str
) -> Item:
    """Return the item of a picture whose path or URL is in a table.

    A relative path is relative to the table's folder, or to the current folder where the picture
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
    """Return the item of a picture whose bytes are in a table."""
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
