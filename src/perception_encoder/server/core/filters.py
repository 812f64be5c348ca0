"""Filters that requests give as values become a condition on a table's columns.

Requests write no SQL: names are looked up in the table, and values are quoted here.
"""

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from perception_encoder.errors import QueryError
from perception_encoder.index.schema import VECTOR

if TYPE_CHECKING:
    import pyarrow as pa

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains", "is_null", "has"]
FilterValue: TypeAlias = str | int | float | bool
Kind: TypeAlias = Literal["text", "number", "flag", "time"]
"""What a column holds, as far as filters go."""

_SIGNS: Final = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_INT64: Final = 2**63


@dataclass(frozen=True)
class Filter:
    """One condition: a column, how it is compared, and with what.

    Attributes:
        column: of the table.
        op: "in" takes a list; "contains" ignores case; "is_null" and "has" (a value) take none.
        value: to compare with; times as ISO 8601.
    """

    column: str
    op: Operator
    value: FilterValue | Sequence[FilterValue] | None = None


def condition(filters: Sequence[Filter], kinds: Mapping[str, Kind]) -> str | None:
    """Return the SQL condition that all filters are met; None without filters.

    Args:
        filters: of a request.
        kinds: of the table's columns.

    Raises:
        QueryError: there is no such column, or the value does not fit it.
    """
    return " AND ".join(_one(filter_, kinds) for filter_ in filters) or None


def column_kinds(schema: "pa.Schema") -> dict[str, Kind]:
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
            f"the table has no column {filter_.column[:100]!r} to filter by; it has: "
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
    if op == "contains":
        if kind != "text":
            raise QueryError(f"filter on {filter_.column}: 'contains' is for texts")
        return f"contains(lower({name}), {_quoted(str(value).lower())})"
    return f"{name} {_SIGNS[op]} {_literal(value, kind, filter_.column)}"


def _literal(value: object, kind: Kind, column: str) -> str:
    if kind == "text" and isinstance(value, str):
        return _quoted(value)
    if kind == "flag" and isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and -_INT64 <= value < _INT64:
            return str(value)
        if math.isfinite(float(value)):
            return f"CAST({float(value)!r} AS DOUBLE)"
    if kind == "time" and isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return f"CAST({_quoted(_in_utc(moment))} AS TIMESTAMP)"
    raise QueryError(f"filter on {column}: {str(value)[:100]!r} is no {kind}")


def _in_utc(moment: datetime.datetime) -> str:
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return moment.isoformat()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
