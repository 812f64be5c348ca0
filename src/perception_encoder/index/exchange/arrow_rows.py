"""Rows out of Arrow tables, ours or other programs': which columns say what, and which do not fit.

A column is a fact (`Row`'s fields), metadata (text, numbers, yes/no), or dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange.provenance import Provenance
from perception_encoder.index.exchange.row_lines import NAME_COLUMNS
from perception_encoder.index.rows import Row
from perception_encoder.index.schema import FACTS, VECTOR, can_be_metadata, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_PATH: Final = "image_path"
"""What clip-retrieval and what reads its folders call the place of a picture."""


@dataclass(frozen=True)
class RowColumns:
    """How a file's columns become rows.

    Attributes:
        types: the columns to read, by the name they have there: (name here, type).
        dropped: columns that have no place in a table.
    """

    types: dict[str, tuple[str, pa.DataType]]
    dropped: tuple[str, ...]

    def rows(self, batch: pa.RecordBatch, path: str) -> list[Row]:
        """Return the rows of a batch that has these columns.

        Raises:
            ExchangeError: a picture has no name, or a value does not fit.
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
                f"{path}: {columns['uri'].null_count} rows name no picture; remove them, with "
                "their vectors"
            )
        return rows_of(pa.record_batch(columns))


def row_columns(schema: pa.Schema, provenance: Provenance | None, path: str) -> RowColumns:
    """Sort a file's columns.

    Raises:
        ExchangeError: none of them names the pictures, or two are called the same.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise ExchangeError(f"{path}: there are two columns {twice[0]!r}; rename or drop one")
    names = [name for name in NAME_COLUMNS if name in schema.names]
    names = [name for name in names if _is_text(schema.field(name).type)]
    if not names:
        raise ExchangeError(
            f"{path}: no column names the pictures; one of {', '.join(NAME_COLUMNS)} has to, as "
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
    """Return the type to read a column as; None where it fits neither a fact nor metadata."""
    import pyarrow as pa
    from pyarrow import types

    kind = field.type
    if field.name == "mtime":
        is_time = types.is_timestamp(kind) or types.is_integer(kind)
        return pa.timestamp("ns", tz="UTC") if is_time else None
    if field.name in FACTS:
        wanted = _types_of_facts()[field.name]
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
    return kind if types.is_boolean(kind) else None


def _types_of_facts() -> dict[str, pa.DataType]:
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
