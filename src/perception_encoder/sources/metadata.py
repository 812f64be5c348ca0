"""What a source says of an image, made fit to be columns of a table. Knows no file formats."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from perception_encoder.index import MetadataValue
from perception_encoder.index.schema import FACTS, VECTOR
from perception_encoder.sources.item import is_unicode, shown

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
        """Return what of a scalar can be stored, see `plain`; None of a text that is too long."""
        value = plain(value)
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
        column = _NOT_IN_NAMES.sub("_", shown(name)).lstrip("_")[:_MAX_LENGTH] or "column"
        while column.lower() in _RESERVED or column in self._taken:
            column += "_"
        self._taken.add(column)
        return column


def is_scalar(value: object) -> bool:
    """Say whether a value can be metadata: one of a kind, or texts, such as several captions."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) for one in value)
    return value is None or isinstance(value, str | int | float)


def plain(value: object) -> MetadataValue:
    """Return a scalar as a table can store it; of several texts each becomes a line."""
    if isinstance(value, list):
        value = "\n".join(one for one in value if one) or None
    if isinstance(value, str):
        return value if is_unicode(value) else shown(value)
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
