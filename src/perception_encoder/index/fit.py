"""Brings metadata of many sources to one type a column, so that one odd value fails nobody.

A table's column has the type of its first values. What comes later is converted where nothing is
lost by it, and left out where something would be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from perception_encoder.index.rows import MetadataValue, Row

if TYPE_CHECKING:
    import pyarrow as pa

_Kind: TypeAlias = Literal["bool", "int", "float", "str"]
_MAX_EXACT_INT: Final = 2**53  # beyond it float64 skips whole numbers
_INT64: Final = range(-(2**63), 2**63)


def fit_metadata(rows: Sequence[Row], schema: pa.Schema) -> tuple[list[Row], Counter[str]]:
    """Make the rows' metadata fit the table's columns, and each other where a column is new.

    Numbers become text where the column holds text, whole numbers become floats; of a new column
    whose values are of several kinds, all become text.

    Args:
        rows: any; they are not changed.
        schema: the table's.

    Returns:
        The rows, and how many values were left out, by their names.
    """
    kinds = _kinds(rows, schema)
    left_out = Counter[str]()
    fitted = []
    for row in rows:
        metadata: dict[str, MetadataValue] = {}
        for name, value in row.metadata.items():
            metadata[name] = None if value is None else _converted(value, kinds[name])
            left_out[name] += value is not None and metadata[name] is None
        fitted.append(replace(row, metadata=metadata) if metadata else row)
    return fitted, +left_out


def _kinds(rows: Sequence[Row], schema: pa.Schema) -> dict[str, _Kind]:
    """Return what each metadata column holds, or will hold."""
    found: dict[str, set[_Kind]] = {}
    for row in rows:
        for name, value in row.metadata.items():
            kinds = found.setdefault(name, set())
            if value is not None:
                kinds.add(_kind_of(value))
    columns = set(schema.names)
    return {
        name: _kind_of_column(schema.field(name).type) if name in columns else _common(kinds)
        for name, kinds in found.items()
    }


def _kind_of(value: MetadataValue) -> _Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "float" if isinstance(value, float) else "str"


def _kind_of_column(column: pa.DataType) -> _Kind:
    import pyarrow as pa

    if pa.types.is_boolean(column):
        return "bool"
    if pa.types.is_integer(column):
        return "int"
    return "float" if pa.types.is_floating(column) else "str"


def _common(kinds: set[_Kind]) -> _Kind:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float" if kinds == {"int", "float"} else "str"


def _converted(value: bool | int | float | str, kind: _Kind) -> MetadataValue:
    """Return the value as that kind, or None where it would not be the same value any more."""
    if kind == "str":
        text = value if isinstance(value, str) else str(value)
        return text if is_unicode(text) else None
    if isinstance(value, bool) or kind == "bool":
        return value if isinstance(value, bool) and kind == "bool" else None
    if isinstance(value, str):
        return None
    if kind == "float":
        return float(value) if isinstance(value, float) or abs(value) <= _MAX_EXACT_INT else None
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            return None
        value = int(value)
    return value if value in _INT64 else None


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: half of a pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
