"""What data says of its own images: their classes and captions. Knows nothing of models."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from perception_encoder.errors import ImageError, SourceError
from perception_encoder.index import MetadataValue
from perception_encoder.sources import Item
from perception_encoder.sources.item import is_broken
from perception_encoder.sources.patterns import suffix_of

_LABEL: Final = "label"  # of the .cls members of archives, and of most indexes
_CAPTION: Final = "caption"  # of the .txt members of archives, and of most indexes


def classes_of(items: Sequence[Item], column: str | None = None) -> dict[str, str]:
    """Return the class that each image is said to have, by its id.

    Args:
        items: of sources.
        column: the metadata that holds it. None takes `label` where an image has that, else the
            name of the folder in which it lies, here or in its archive. A folder that has folders
            of images in it is none.

    Returns:
        The classes of those that have one.
    """
    folders = {item.id: _folder_of(item) for item in items}
    above = set[str]()
    for folder in set(folders.values()):
        while (folder := os.path.dirname(folder)) and folder not in above:
            above.add(folder)
    classes = {}
    for item in items:
        name = _text(item.metadata.get(column or _LABEL))
        if name is None and column is None and folders[item.id] not in above:
            name = os.path.basename(folders[item.id])
        if name:
            classes[item.id] = name
    return classes


def class_names(items: Iterable[Item], column: str | None = None) -> list[str]:
    """Return the names of classes that are numbers, in order, where the first index has them.

    Parquet files that Hugging Face's `datasets` wrote say in their schema what the numbers of a
    `ClassLabel` column mean.

    Args:
        items: of sources.
        column: as in `classes_of`.

    Returns:
        Nothing where no file of this machine says so.
    """
    first = next(iter(items), None)
    if first is None or suffix_of(first.uri) != ".parquet" or not os.path.isfile(first.uri):
        return []
    import pyarrow.parquet as pq

    written = (pq.read_schema(first.uri).metadata or {}).get(b"huggingface")
    try:
        features = json.loads(written or b"{}")["info"]["features"]
        return [str(name) for name in features[column or _LABEL]["names"]]
    except (ValueError, KeyError, TypeError):
        return []


def unlisted(items: Iterable[Item]) -> Iterator[ImageError | OSError]:
    """Say what could not be listed: a folder, an archive or row that is damaged."""
    for item in items:
        is_unread = item.bytes is None and item.member is None and not item.is_remote
        if is_unread or is_broken(item):
            try:
                item.read()
            except (ImageError, OSError) as err:
                yield err


def captions_of(item: Item, columns: Sequence[str]) -> list[str]:
    """Return the captions of an image: those in the columns, each line for one."""
    texts = [_text(item.metadata.get(column)) for column in columns]
    return [line.strip() for text in texts if text for line in text.splitlines() if line.strip()]


def caption_columns(items: Iterable[Item], wanted: Sequence[str]) -> Sequence[str]:
    """Return the columns that hold captions.

    Args:
        items: of the sources.
        wanted: the columns that were asked for; `caption` if none.

    Raises:
        SourceError: no image has such a column.
    """
    columns = wanted or [_CAPTION]
    known = dict.fromkeys(name for item in items for name in item.metadata)
    for column in columns:
        if column not in known:
            raise SourceError(
                f"no image has a column {column!r}; name the one with captions "
                f"(--caption-column); what there is: {', '.join(known) or 'none'}"
            )
    return columns


def _folder_of(item: Item) -> str:
    """Return the folder's path, on this machine or with that of its archive; "" for none."""
    if item.member is None:
        return os.path.dirname(item.uri)
    inner = os.path.dirname(item.member)
    return f"{item.uri}/{inner}" if inner else ""


def _text(value: MetadataValue) -> str | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():  # of a column with gaps
        return str(int(value))
    return str(value).strip() or None
