"""Converts tables and JSON lines, ours or other programs', to rows of an index.

A column becomes a field of `Row`, metadata (text, numbers, booleans), or is dropped.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange.streams import Provenance
from perception_encoder.index.rows import MetadataValue, Row, is_unicode, to_time
from perception_encoder.index.schema import ROW_COLUMNS, VECTOR, can_be_metadata, rows_of

if TYPE_CHECKING:
    import pyarrow as pa


NAME_COLUMNS: Final = ("uri", "image_path", "url", "path")
"""Names of the column with the image's path in other programs; the first one found is used."""

_NO_METADATA: Final = ("id", VECTOR)
_WHOLE_NUMBERS: Final = ("offset", "width", "height", "bytes", "mtime")
_MOST_INT64: Final = 2**63 - 1
_MOST: Final = {"width": 2**31 - 1, "height": 2**31 - 1}
IMAGE_PATH: Final = "image_path"
"""The name of the column with the image's path in clip-retrieval and its readers."""


def format_row_line(row: Row) -> str:
    """Return a row as a JSON line; metadata that JSON cannot express becomes null."""
    record: dict[str, Any] = {"id": row.id}
    record |= {name: getattr(row, name) for name in ROW_COLUMNS if getattr(row, name) is not None}
    record |= {name: _to_json(value) for name, value in row.metadata.items()}
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _to_json(value: MetadataValue) -> str | int | float | bool | None:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value if can_be_json(value) else None


def can_be_json(value: MetadataValue) -> bool:
    """Whether JSON can express a value; it cannot express NaN and infinities."""
    return not isinstance(value, float) or math.isfinite(value)


def read_row_lines(path: str, num_rows: int, times: Collection[str] = ()) -> Iterator[list[Row]]:
    """Yield the rows of a file, `num_rows` at a time.

    Args:
        path: of the file.
        num_rows: at most, in one list.
        times: names of metadata that hold times.

    Raises:
        ExchangeError: a line is not an object, or does not name an image.
    """
    with open(path, "rb") as lines:
        numbered = enumerate(lines, start=1)
        while block := list(islice(numbered, num_rows)):
            yield [_row(line, f"{path}, line {number}", times) for number, line in block]


def count_lines(path: str) -> int:
    """Return the number of lines."""
    with open(path, "rb") as lines:
        return sum(1 for _ in lines)


def _row(line: bytes, where: str, times: Collection[str]) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as err:  # also bytes that are not UTF-8
        raise ExchangeError(f"{where}: not JSON: {err}; each line holds one object") from err
    if not isinstance(record, dict):
        raise ExchangeError(f"{where}: a {type(record).__name__}; each line holds one object")
    name = _first(record, NAME_COLUMNS)
    if name is None:
        raise ExchangeError(f"{where}: no image; one of {', '.join(NAME_COLUMNS)} has to name it")
    facts = {
        fact: record[fact] for fact in ROW_COLUMNS if fact != "uri" and record.get(fact) is not None
    }
    for fact, value in facts.items():
        _check_fact(fact, value, where)
    metadata = {
        key: to_time(value) if key in times else value
        for key, value in record.items()
        if key not in _NO_METADATA
        and key not in ROW_COLUMNS
        and key != name
        and isinstance(value, str | int | float | bool)
        and can_be_metadata(key)
    }
    try:
        return Row(uri=str(record[name]), **facts, metadata=metadata)
    except ValueError as err:  # a lone surrogate, which JSON can express
        raise ExchangeError(f"{where}: {err}") from err


def _check_fact(fact: str, value: object, where: str) -> None:
    """Check that the index's column can hold a value.

    Raises:
        ExchangeError: it cannot.
    """
    kind = int if fact in _WHOLE_NUMBERS else str
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ExchangeError(f"{where}: {fact} is {value!r}; it has to be of type {kind.__name__}")
    most = _MOST.get(fact, _MOST_INT64)
    if isinstance(value, int) and not -most <= value <= most:
        raise ExchangeError(f"{where}: {fact} is {str(value)[:40]}, beyond {most}")
    if isinstance(value, str) and not is_unicode(value):
        raise ExchangeError(f"{where}: {fact} is {value!a}, which is not valid Unicode")


def _first(record: dict[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if isinstance(record.get(name), str)), None)


@dataclass(frozen=True)
class RowColumns:
    """How the columns of a file become rows.

    Attributes:
        types: the columns to read, by their name in the file: (name in the index, type).
        dropped: columns that an index cannot hold.
    """

    types: dict[str, tuple[str, pa.DataType]]
    dropped: tuple[str, ...]

    def rows(self, batch: pa.RecordBatch, path: str) -> list[Row]:
        """Return the rows of a batch.

        Raises:
            ExchangeError: an image has no name, or a value does not fit.
        """
        return list(self._rows(batch, path))

    def _rows(self, batch: pa.RecordBatch, path: str) -> Iterator[Row]:
        import pyarrow as pa

        columns = {}
        for theirs, (ours, kind) in self.types.items():
            try:
                columns[ours] = batch[theirs].cast(kind)
            except pa.ArrowInvalid as err:
                raise ExchangeError(
                    f"{path}: column {theirs!r} has values that do not fit {kind}: {err}; leave it "
                    "out, or convert it"
                ) from err
        if columns["uri"].null_count:
            raise ExchangeError(
                f"{path}: {columns['uri'].null_count} rows name no image; remove them, with "
                "their vectors"
            )
        return rows_of(pa.record_batch(columns))


def match_columns(schema: pa.Schema, provenance: Provenance | None, path: str) -> RowColumns:
    """Match the columns of a file with those of an index.

    Raises:
        ExchangeError: no column names the images, or two have the same name.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise ExchangeError(f"{path}: there are two columns {twice[0]!r}; rename or drop one")
    names = [name for name in NAME_COLUMNS if name in schema.names]
    names = [name for name in names if _is_text(schema.field(name).type)]
    if not names:
        raise ExchangeError(
            f"{path}: no column names the images; one of {', '.join(NAME_COLUMNS)} has to, as "
            f"text. It has: {', '.join(schema.names)}"
        )
    ours = None if provenance is None else set(provenance.columns)
    types, dropped = {}, []
    for field in schema:
        if field.name == names[0]:
            types[field.name] = ("uri", _text_type())
        elif field.name in ("id", VECTOR) or (field.name == IMAGE_PATH and names[0] == "uri"):
            if ours is not None and field.name in ours:
                types[field.name] = (field.name, _text_type())
        else:
            kind = _fitting_type(field)
            if kind is None:
                dropped.append(field.name)
            else:
                types[field.name] = (field.name, kind)
    return RowColumns(types, tuple(dropped))


def _fitting_type(field: pa.Field) -> pa.DataType | None:
    """Return the type to read a column as; None to drop it."""
    import pyarrow as pa
    from pyarrow import types

    kind = field.type
    if field.name == "mtime":
        is_time = types.is_timestamp(kind) or types.is_integer(kind)
        return pa.timestamp("ns", tz="UTC") if is_time else None
    if field.name in ROW_COLUMNS:
        wanted = _types_of_columns()[field.name]
        fits = _is_text(kind) if wanted == pa.string() else types.is_integer(kind)
        return wanted if fits else None
    if not can_be_metadata(field.name):
        return None
    if _is_text(kind):
        return pa.string()
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_timestamp(kind):
        return pa.timestamp("us")
    return kind if types.is_boolean(kind) else None


def _types_of_columns() -> dict[str, pa.DataType]:
    import pyarrow as pa

    whole = dict.fromkeys(("offset", "bytes"), pa.int64())
    sides = dict.fromkeys(("width", "height"), pa.int32())
    return {**whole, **sides, **dict.fromkeys(("member", "sha256"), pa.string())}


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _text_type() -> pa.DataType:
    import pyarrow as pa

    return pa.string()
