"""Labels as people write them: `cat,dog,red car`, or a file of one a line or of JSON.

    cat
    pet: dog, hamster, a goldfish     # what the model reads in place of "pet"

Knows nothing of models.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

Labels: TypeAlias = dict[str, tuple[str, ...]]
"""The names that the model reads, by the label that results have."""

_COMMENT: Final = "#"
_MOST_DIGITS: Final = 9  # of a class's number; Python refuses to read thousands of them


def listed_labels(text: str) -> Labels:
    """Read labels with commas between them.

    Raises:
        ValueError: there is none, or one comes twice.
    """
    return _collected((name, (name,)) for name in _names(text))


def labels_in(text: str) -> Labels:
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


def gap_in(text: str) -> int | None:
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


def labels_named(names: Iterable[str]) -> Labels:
    """Make labels of names that data gives its classes; the model reads them with spaces for `_`.

    Raises:
        ValueError: one comes twice, or is empty.
    """
    pairs = ((name, (name.replace("_", " ").strip() or name,)) for name in names)
    return _without_repeats(pairs)


def labels_of_classes(
    classes: Sequence[str], given: Labels | None = None
) -> tuple[Labels, list[int]]:
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
        given = labels_named(found)
    number_of = {label: number for number, label in enumerate(given)}
    for name in set(classes) - set(number_of):
        if not name.isdecimal() or len(name) > _MOST_DIGITS or int(name) >= len(given):
            raise ValueError(f"the class {name!r} is not among the labels")
        number_of[name] = int(name)
    return given, [number_of[name] for name in classes]
