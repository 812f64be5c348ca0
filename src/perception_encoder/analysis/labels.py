"""Labels as people write them: `cat,dog,red car`, or a file of one a line or of JSON.

    cat
    pet: dog, hamster, a goldfish     # what the model reads in place of "pet"

Knows nothing of models.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from perception_encoder.errors import ImageError, SourceError
from perception_encoder.index import MetadataValue
from perception_encoder.sources import Item
from perception_encoder.sources.item import is_broken
from perception_encoder.sources.patterns import suffix_of

Labels: TypeAlias = dict[str, tuple[str, ...]]
"""The names that the model reads, by the label that results have."""

_COMMENT: Final = "#"
_MOST_DIGITS: Final = 9  # of a class's number; Python refuses to read thousands of them
_LABEL: Final = "label"  # of the .cls members of archives, and of most indexes
_CAPTION: Final = "caption"  # of the .txt members of archives, and of most indexes


def parse_label_list(text: str) -> Labels:
    """Read labels with commas between them.

    Raises:
        ValueError: there is none, or one comes twice.
    """
    return _collected((name, (name,)) for name in _names(text))


def parse_labels(text: str) -> Labels:
    """Read a file of labels.

    One a line, `label` or `label: name, name`; or a JSON object, `{"label": ["name", "name"]}`, or
    a JSON list. Empty lines, and what follows a `#` at a line's start or after a space, are left
    out.

    Raises:
        ValueError: there is none, one comes twice, one has no names, or the JSON is damaged.
    """
    if text.lstrip().startswith(("{", "[")):
        return _collected(_of_json(text))
    return _collected(_of_lines(text))


def find_gap(text: str) -> int | None:
    """Return the number of the first empty line that has a label after it, in a file of lines.

    Where classes are numbers they mean lines, and an empty line that is left out would shift them.
    """
    if text.lstrip().startswith(("{", "[")):
        return None
    lines = text.rstrip().split("\n")
    return next((number for number, line in enumerate(lines, 1) if not line.strip()), None)


def _of_lines(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in text.split("\n"):  # `splitlines` would cut names at other signs too
        written = f" {line}".partition(f" {_COMMENT}")[0].strip()
        if not written:
            continue
        label, colon, names = written.partition(":")
        yield label.strip(), _names(names) if colon else (written,)


def _of_json(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        found = json.loads(text, object_pairs_hook=tuple)  # a label that comes twice stays twice
    except (ValueError, RecursionError) as err:
        raise ValueError(f"this is no JSON: {err}") from err
    pairs = found if isinstance(found, tuple) else [(label, label) for label in found]
    for label, names in pairs:
        listed = [names] if isinstance(names, str) else names
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise ValueError(f"label {label!r}: expected a name or a list of names, got {names!r}")
        yield str(label), tuple(listed)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _collected(pairs: Iterable[tuple[str, tuple[str, ...]]]) -> Labels:
    labels = _without_repeats(pairs)
    if not labels:
        raise ValueError("there are no labels")
    return labels


def _without_repeats(pairs: Iterable[tuple[str, tuple[str, ...]]]) -> Labels:
    labels: Labels = {}
    for label, names in pairs:
        if label in labels:
            raise ValueError(f"the label {label!r} comes twice")
        if not label or not names:
            raise ValueError(f"the label {label!r} has no names")
        labels[label] = names
    return labels


def name_labels(names: Iterable[str]) -> Labels:
    """Make labels of names that data gives its classes; the model reads them with spaces for `_`.

    Raises:
        ValueError: one comes twice, or is empty.
    """
    pairs = ((name, (name.replace("_", " ").strip() or name,)) for name in names)
    return _without_repeats(pairs)


def match_classes(classes: Sequence[str], given: Labels | None = None) -> tuple[Labels, list[int]]:
    """Find the label of each image's class.

    Args:
        classes: of each image; the names that data gives them, such as those of folders.
        given: the labels. A class that is a number and no label is the number of one, from 0.
            Where there are none, each class is one.

    Returns:
        The labels, and for each image the number of its own.

    Raises:
        ValueError: a class has no label, or there are nothing but numbers.
    """
    if not given:
        found = sorted(set(classes))
        if all(name.isdecimal() for name in found):
            raise ValueError("the classes are numbers: give their names, in order, as labels")
        given = name_labels(found)
    number_of = {label: number for number, label in enumerate(given)}
    for name in set(classes) - set(number_of):
        if not name.isdecimal() or len(name) > _MOST_DIGITS or int(name) >= len(given):
            raise ValueError(f"the class {name!r} is not among the labels")
        number_of[name] = int(name)
    return given, [number_of[name] for name in classes]


def read_classes(items: Sequence[Item], column: str | None = None) -> dict[str, str]:
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


def read_class_names(items: Iterable[Item], column: str | None = None) -> list[str]:
    """Return the names of classes that are numbers, in order, where the first index has them.

    Parquet files that Hugging Face's `datasets` wrote say in their schema what the numbers of a
    `ClassLabel` column mean.

    Args:
        items: of sources.
        column: as in `read_classes`.

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


def iter_unlisted(items: Iterable[Item]) -> Iterator[ImageError | OSError]:
    """Say what could not be listed: a folder, an archive or row that is damaged."""
    for item in items:
        is_unread = item.bytes is None and item.member is None and not item.is_remote
        if is_unread or is_broken(item):
            try:
                item.read()
            except (ImageError, OSError) as err:
                yield err


def read_captions(item: Item, columns: Sequence[str]) -> list[str]:
    """Return the captions of an image: those in the columns, each line for one."""
    texts = [_text(item.metadata.get(column)) for column in columns]
    return [line.strip() for text in texts if text for line in text.splitlines() if line.strip()]


def find_caption_columns(items: Iterable[Item], wanted: Sequence[str]) -> Sequence[str]:
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
