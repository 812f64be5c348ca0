"""Labels and captions: as users write them, and as sources state them for their images.

A list is `cat,dog,red car`. A file has one label a line, or is JSON:

    cat
    pet: dog, hamster, a goldfish     # the names that the model reads in place of "pet"
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from perception_encoder.errors import ImageError, SourceError
from perception_encoder.index import MetadataValue, Row
from perception_encoder.sources import Item
from perception_encoder.sources.item import is_broken
from perception_encoder.sources.patterns import suffix_of

Labels: TypeAlias = dict[str, tuple[str, ...]]
"""The names that the model reads, by the label that results show."""

_COMMENT: Final = "#"
_MAX_DIGITS: Final = 9  # of a class number; Python refuses to parse thousands of digits
_LABEL: Final = "label"  # the column of an archive's .cls members, and of most tables
_CAPTION: Final = "caption"  # the column of an archive's .txt members, and of most tables


def parse_label_list(text: str) -> Labels:
    """Read labels separated by commas.

    Raises:
        ValueError: there are no labels, or one occurs twice.
    """
    return _collected((name, (name,)) for name in _names(text))


def parse_labels(text: str) -> Labels:
    """Read a file of labels.

    Lines are `label` or `label: name, name`. A file may also be a JSON object
    (`{"label": ["name", "name"]}`) or a JSON list. Empty lines are left out, and so is text after a
    `#` at the start of a line or after a space.

    Raises:
        ValueError: there are no labels, one occurs twice or has no names, or the JSON is invalid.
    """
    if text.lstrip().startswith(("{", "[")):
        return _collected(_of_json(text))
    return _collected(_of_lines(text))


def find_gap(text: str) -> int | None:
    """Return the number of the first empty line before a label; None if there is none.

    Class numbers count lines, so an empty line that is left out would shift them.
    """
    if text.lstrip().startswith(("{", "[")):
        return None
    lines = text.rstrip().split("\n")
    return next((number for number, line in enumerate(lines, 1) if not line.strip()), None)


def _of_lines(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in text.split("\n"):  # splitlines also splits at other separators
        written = f" {line}".partition(f" {_COMMENT}")[0].strip()
        if not written:
            continue
        label, colon, names = written.partition(":")
        yield label.strip(), _names(names) if colon else (written,)


def _of_json(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        found = json.loads(text, object_pairs_hook=tuple)  # keeps labels that occur twice
    except (ValueError, RecursionError) as err:
        raise ValueError(f"invalid JSON: {err}") from err
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
            raise ValueError(f"the label {label!r} occurs twice")
        if not label or not names:
            raise ValueError(f"the label {label!r} has no names")
        labels[label] = names
    return labels


def name_labels(names: Iterable[str]) -> Labels:
    """Return labels for class names; the model reads spaces in place of `_`.

    Raises:
        ValueError: a name occurs twice, or is empty.
    """
    pairs = ((name, (name.replace("_", " ").strip() or name,)) for name in names)
    return _without_repeats(pairs)


def match_classes(classes: Sequence[str], given: Labels | None = None) -> tuple[Labels, list[int]]:
    """Find the label of each image's class.

    Args:
        classes: the class of each image, such as the name of its folder.
        given: the labels; None makes each class a label. A class that is not a label but a number
            is the position of a label, from 0.

    Returns:
        The labels, and the position of each image's label.

    Raises:
        ValueError: a class has no label, or there are no labels and all classes are numbers.
    """
    if not given:
        found = sorted(set(classes))
        if all(name.isdecimal() for name in found):
            raise ValueError("the classes are numbers: give their names, in order, as labels")
        given = name_labels(found)
    number_of = {label: number for number, label in enumerate(given)}
    for name in set(classes) - set(number_of):
        if not name.isdecimal() or len(name) > _MAX_DIGITS or int(name) >= len(given):
            raise ValueError(f"the class {name!r} is not among the labels")
        number_of[name] = int(name)
    return given, [number_of[name] for name in classes]


def read_classes(items: Sequence[Item | Row], column: str | None = None) -> dict[str, str]:
    """Return the class of each image that has one, by the image's id.

    Args:
        items: images of sources, or rows of an index.
        column: the metadata column of the class. None takes the column `label`, or else the name
            of the folder or of the archive's folder that holds the image, unless that folder has
            folders of images itself.
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


def split_labels(text: str) -> tuple[str, ...]:
    """Return the labels of one image: separated by commas, or by semicolons as keywords are."""
    return tuple(dict.fromkeys(_names(text.replace(";", ","))))


def read_label_sets(
    items: Sequence[Item | Row],
    column: str | None = None,
    *,
    none: Collection[str] = (),
    is_multi_label: bool = False,
) -> dict[str, tuple[str, ...]]:
    """Return the labels of each image that has a class, by the image's id.

    Args:
        items: images of sources, or rows of an index.
        column: as in `read_classes`.
        none: classes that mean none of the labels.
        is_multi_label: A class may be several labels, see `split_labels`.
    """
    classes = read_classes(items, column)
    split = split_labels if is_multi_label else lambda name: (name,)
    return {
        key: tuple(label for label in split(name) if label not in none)
        for key, name in classes.items()
    }


def read_class_names(items: Iterable[Item], column: str | None = None) -> list[str]:
    """Return the names of numbered classes, in order, as stated by the first Parquet file.

    Hugging Face's `datasets` stores the names of a `ClassLabel` column in the schema.

    Args:
        items: images of sources.
        column: as in `read_classes`.

    Returns:
        An empty list if the file is not local, or states no names.
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
    """Yield the errors of folders, archives and rows that could not be listed."""
    for item in items:
        is_unread = item.bytes is None and item.member is None and not item.is_remote
        if is_unread or is_broken(item):
            try:
                item.read()
            except (ImageError, OSError) as err:
                yield err


def read_captions(item: Item, columns: Sequence[str]) -> list[str]:
    """Return the captions of an image: each line of each column is one."""
    texts = [_text(item.metadata.get(column)) for column in columns]
    return [line.strip() for text in texts if text for line in text.splitlines() if line.strip()]


def find_caption_columns(items: Iterable[Item], wanted: Sequence[str]) -> Sequence[str]:
    """Return the columns that hold captions.

    Args:
        items: images of sources.
        wanted: the columns that were asked for; if empty, `caption`.

    Raises:
        SourceError: no image has such a column.
    """
    columns = wanted or [_CAPTION]
    known = dict.fromkeys(name for item in items for name in item.metadata)
    for column in columns:
        if column not in known:
            raise SourceError(
                f"no image has a column {column!r}; name the one with captions "
                f"(--caption-column); available: {', '.join(known) or 'none'}"
            )
    return columns


def _folder_of(item: Item | Row) -> str:
    """Return the path of an image's folder, inside its archive if it is in one; "" for none."""
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
