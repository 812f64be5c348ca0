"""Filters that requests give as values become a condition on an index's columns.

Requests write no SQL: names are looked up in the index, and values are quoted here.
"""

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from perception_encoder.errors import QueryError
from perception_encoder.index.condition import check_size, check_value_count
from perception_encoder.index.rows import TIME_YEARS
from perception_encoder.index.schema import VECTOR

if TYPE_CHECKING:
    import pyarrow as pa

Operator: TypeAlias = Literal[
    "=", "!=", "<", "<=", ">", ">=", "in", "contains", "starts_with", "is_null", "has"
]  # fmt: skip
FilterValue: TypeAlias = str | int | float | bool
Kind: TypeAlias = Literal["text", "number", "flag", "time"]
"""What a column holds, as far as filters go."""

_SIGNS: Final = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_INT64: Final = 2**63


@dataclass(frozen=True)
class Filter:
    """One condition: a column, how it is compared, and with what.

    Attributes:
        column: of the index.
        op: "in" takes a list; "contains" ignores case, "starts_with" does not; "is_null" and "has"
            (a value) take no value.
        value: to compare with; times as ISO 8601.
    """

    column: str
    op: Operator
    value: FilterValue | Sequence[FilterValue] | None = None


def build_condition(filters: Sequence[Filter], kinds: Mapping[str, Kind]) -> str | None:
    """Return the SQL condition that all filters are met; None without filters.

    Args:
        filters: of a request.
        kinds: of the index's columns.

    Raises:
        QueryError: there is no such column, a value does not fit it, or there are too many values
            or too large ones.
    """
    lists = (one.value for one in filters if isinstance(one.value, list | tuple))
    check_value_count(sum(map(len, lists)))
    written = " AND ".join(_one(filter_, kinds) for filter_ in filters)
    check_size(written)
    return written or None


def list_column_kinds(schema: "pa.Schema") -> dict[str, Kind]:
    """Return the columns that filters may name, with what they hold."""
    found: dict[str, Kind] = {}
    for field in schema:
        kind = _kind(field.type)
        if kind is not None and field.name != VECTOR and "`" not in field.name:
            found[field.name] = kind
    return found


def _kind(type_: "pa.DataType") -> Kind | None:
    import pyarrow as pa

    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    if pa.types.is_boolean(type_):
        return "flag"
    return "time" if pa.types.is_timestamp(type_) else None


def _one(filter_: Filter, kinds: Mapping[str, Kind]) -> str:
    kind = kinds.get(filter_.column)
    if kind is None:
        raise QueryError(
            f"the index has no column {filter_.column[:100]!r} to filter by; it has: "
            f"{', '.join(kinds)}"
        )
    name, op, value = f"`{filter_.column}`", filter_.op, filter_.value
    if op in ("is_null", "has"):
        return f"{name} IS {'NOT ' if op == 'has' else ''}NULL"
    if op == "in":
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise QueryError(f"filter on {filter_.column}: 'in' takes a list of values")
        return f"{name} IN ({', '.join(_literal(one, kind, filter_.column) for one in value)})"
    if value is None or not isinstance(value, FilterValue):
        raise QueryError(f"filter on {filter_.column}: {op!r} takes one value")
    if op in ("contains", "starts_with"):
        if kind != "text":
            raise QueryError(f"filter on {filter_.column}: {op!r} is for texts")
        if op == "starts_with":
            return f"starts_with({name}, {_quoted(_shown(value))})"
        return f"contains(lower({name}), {_quoted(_shown(value).lower())})"
    return f"{name} {_SIGNS[op]} {_literal(value, kind, filter_.column)}"


def _literal(value: object, kind: Kind, column: str) -> str:
    if kind == "text" and isinstance(value, str):
        return _quoted(value)
    if kind == "flag" and isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, column)
    if kind == "time" and isinstance(value, str):
        return _time(value, column)
    raise _misfit(value, kind, column)


def _number(value: float, column: str) -> str:
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise QueryError(
                f"filter on {column}: {_shown(value)[:100]} does not fit 64 bits; write it with a "
                "decimal point to compare it as a float64"
            )
        return str(value)
    if not math.isfinite(value):
        raise _misfit(value, "number", column)
    return f"CAST({value!r} AS DOUBLE)"


def _time(value: str, column: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as err:  # OverflowError: another zone's year 0 or 10000
        raise _misfit(value, "time", column) from err
    if moment.year not in TIME_YEARS:
        raise QueryError(
            f"filter on {column}: {value[:100]!r} is no time from {TIME_YEARS.start} to "
            f"{TIME_YEARS.stop - 1}"
        )
    return f"CAST({_quoted(moment.isoformat())} AS TIMESTAMP)"


def _misfit(value: object, kind: Kind, column: str) -> QueryError:
    return QueryError(f"filter on {column}: {_shown(value)[:100]!r} is no {kind}")


def _shown(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes no integers of more than 4300 digits
        return "a number of thousands of digits"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
