"""What a source says of a picture, made fit to be columns of a table. Knows no file formats."""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from perception_encoder.index import MetadataValue
from perception_encoder.index.schema import FACTS, VECTOR
from perception_encoder.pipeline.sources.item import shown

_RESERVED: Final = frozenset(("id", *FACTS, VECTOR))
_INT64: Final = range(-(2**63), 2**63)


def column_names(names: Iterable[str]) -> dict[str, str]:
    """Return a column's name for each name of the source.

    Names of our own columns get a `_` at their end; dots and backticks, which conditions cannot
    hold, become `_`; a `_` at the start goes.
    """
    columns: dict[str, str] = {}
    taken = set[str]()
    for name in dict.fromkeys(names):
        column = shown(name).replace(".", "_").replace("`", "_").lstrip("_") or "column"
        while column.lower() in _RESERVED or column in taken:
            column += "_"
        taken.add(column)
        columns[name] = column
    return columns


def scalars(values: Mapping[str, object]) -> dict[str, MetadataValue]:
    """Return what of the values can be metadata, under names that can be columns.

    Mappings, bytes, and lists of anything but texts are left out.
    """
    kept = {name: value for name, value in values.items() if is_scalar(value)}
    columns = column_names(kept)
    return {columns[name]: plain(value) for name, value in kept.items()}


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
        return shown(value)
    if isinstance(value, int) and value not in _INT64:
        return float(value) if abs(value) < 10**300 else math.copysign(math.inf, value)
    assert value is None or isinstance(value, bool | int | float)
    return value


class Kinds:
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
            name: value if value is None else self._kinds[name](value)
            for name, value in values.items()
        }
