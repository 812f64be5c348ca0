"""Pictures that a CSV or JSON lines file names; in JSON lines also their bytes, as base64."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Final

from perception_encoder.errors import ImageNotFoundError, ImageUnreadableError
from perception_encoder.index import item_name
from perception_encoder.pipeline.sources.access import Access
from perception_encoder.pipeline.sources.cells import (
    empty_item,
    from_base64,
    named_item,
    stored_item,
)
from perception_encoder.pipeline.sources.columns import ColumnKind, is_base64, row_key
from perception_encoder.pipeline.sources.item import Item, broken
from perception_encoder.pipeline.sources.metadata import Kinds, column_names, is_scalar, plain
from perception_encoder.pipeline.sources.names import scheme
from perception_encoder.pipeline.sources.select import suffix
from perception_encoder.pipeline.sources.text_rows import (
    TextRow,
    csv_rows,
    json_row,
    json_rows,
    number_in,
)

_SAMPLE: Final = 100


class TextTable:
    """One file of rows.

    Args:
        uri: absolute path or URL.
        access: reads it.
    """

    def __init__(self, uri: str, access: Access) -> None:
        self._uri = uri
        self._access = access
        self._is_csv = suffix(uri) in (".csv", ".tsv")

    def kinds(self) -> dict[str, ColumnKind]:
        """Return what each column holds, going by the first rows."""
        kinds: dict[str, ColumnKind] = {}
        with closing(self._rows()) as rows:
            for row in islice(rows, _SAMPLE):
                for name, value in row.values.items():
                    if kinds.get(name, "other") == "other":
                        kinds[name] = self._kind(name, value)
        return kinds

    def items(self, column: str) -> Iterator[Item]:
        """Yield the pictures that a column holds or names; the file is read twice.

        Raises:
            ImageError: the file cannot be read.
        """
        mtime = self._access.facts(self._uri).mtime
        kinds = Kinds()
        for row in self._rows():
            values = self._metadata(row, column)
            kinds.see(
                {name: number_in(value) for name, value in values.items()}
                if self._is_csv
                else {name: plain(value) for name, value in values.items()}
            )
        for row in self._rows():
            yield self._item(row, column, kinds, mtime)

    def read_row(self, column: str, number: int) -> bytes:
        """Read the picture in a row again.

        Raises:
            ImageNotFoundError: the file has no such row or column any more.
            ImageError: it cannot be read.
        """
        key = row_key(column, number)
        with closing(self._rows()) as rows:
            row = next(islice(rows, number, None), None)
        if row is None:
            item = item_name(self._uri, key)
            raise ImageNotFoundError(
                f"{item}: the table has no such row or column any more", item=item
            )
        return self._decode(row.values.get(column), key)

    def _item(self, row: TextRow, column: str, kinds: Kinds, mtime: int | None) -> Item:
        key = row_key(column, row.number)
        if row.problem is not None:
            return broken(self._uri, row.problem, member=key, is_remote=bool(scheme(self._uri)))
        cell = row.values.get(column)
        values = self._metadata(row, column)
        names = column_names(values)
        fitted = kinds.fit({name: plain(value) for name, value in values.items()})
        metadata = {names[name]: value for name, value in fitted.items()}
        if _stored(cell, column) is not None:
            read = partial(self._read_line, column, row.number, row.offset, row.num_bytes)
            return stored_item(self._uri, key, read, mtime, metadata)
        name = cell.get("path") if isinstance(cell, Mapping) else cell
        if isinstance(name, str) and name:
            return named_item(self._access, self._uri, name, metadata)
        return empty_item(self._uri, key)

    def _metadata(self, row: TextRow, column: str) -> dict[str, object]:
        return {
            name: value for name, value in row.values.items() if name != column and is_scalar(value)
        }

    def _read_line(self, column: str, number: int, offset: int, num_bytes: int) -> bytes:
        key = row_key(column, number)
        item = item_name(self._uri, key)
        line = self._access.read_range(self._uri, offset, num_bytes, item=item)
        return self._decode(json_row(number, line).values.get(column), key)

    def _decode(self, cell: object, key: str) -> bytes:
        column = key.rpartition(":")[0]
        item = item_name(self._uri, key)
        text = _stored(cell, column)
        if text is None:
            raise ImageUnreadableError(
                f"{item}: the row holds no bytes any more; index the table again", item=item
            )
        return from_base64(text, item)

    def _kind(self, column: str, value: object) -> ColumnKind:
        if isinstance(value, str):
            return "bytes" if not self._is_csv and is_base64(column) else "name"
        return "struct" if isinstance(value, dict) and {"bytes", "path"} & set(value) else "other"

    def _rows(self) -> Generator[TextRow]:
        with self._access.open(self._uri) as stream:
            yield from csv_rows(stream) if self._is_csv else json_rows(stream)


def _stored(cell: object, column: str) -> str | None:
    """Return the base64 text in a cell, if it holds any."""
    text = cell.get("bytes") if isinstance(cell, Mapping) else cell
    is_stored = isinstance(cell, Mapping) or is_base64(column)
    if isinstance(text, str) and text and (is_stored or text.startswith("data:")):
        return text
    return None
