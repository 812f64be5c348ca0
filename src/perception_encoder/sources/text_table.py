"""Images that a CSV or JSON lines file names; in JSON lines also their bytes, as base64."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Final, cast

from perception_encoder.errors import ImageNotFoundError, ImageUnreadableError, SourceError
from perception_encoder.index import MetadataValue, item_name
from perception_encoder.sources.access import FileAccess
from perception_encoder.sources.columns import (
    ColumnKind,
    empty_item,
    from_base64,
    is_base64,
    named_item,
    row_key,
    stored_item,
)
from perception_encoder.sources.csv_rows import CsvFile, CsvHeader, csv_row
from perception_encoder.sources.item import Item, broken, is_unicode, scheme
from perception_encoder.sources.metadata import ColumnTypes, MetadataColumns, is_scalar
from perception_encoder.sources.select import suffix
from perception_encoder.sources.text_rows import (
    TextRow,
    encoding_at,
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

    def __init__(self, uri: str, access: FileAccess) -> None:
        self._uri = uri
        self._access = access
        self._is_remote = bool(scheme(uri))
        self._is_csv = suffix(uri) in (".csv", ".tsv")
        self._header: CsvHeader | None = None
        self._names = MetadataColumns()
        self._num_not_text = 0

    def kinds(self) -> dict[str, ColumnKind]:
        """Return what each column holds, going by the first rows."""
        kinds: dict[str, ColumnKind] = {}
        with closing(self._rows()) as rows:
            for row in islice(rows, _SAMPLE):
                for name, value in row.values.items():
                    if kinds.get(name, "other") == "other" and value is not None:
                        kinds[name] = self._kind(name, value)
        # A column of which nothing is known but its name may well be the one.
        names = self._header.names if self._header is not None else kinds
        return {name: kinds.get(name, "name") for name in names}

    def items(self, column: str) -> Iterator[Item]:
        """Yield the images that a column holds or names; the file is read twice.

        Raises:
            ImageError: the file cannot be read.
        """
        mtime = self._access.facts(self._uri).mtime
        kinds = ColumnTypes()
        self._names, self._num_not_text = MetadataColumns(), 0
        for row in self._rows():
            kinds.see(self._metadata(row, column))
        self._num_not_text = 0
        self._names.count_anew()
        for row in self._rows():
            yield self._item(row, column, kinds, mtime)

    def notes(self) -> list[str]:
        """Say which values were left out."""
        notes = self._names.notes()
        if self._num_not_text:
            notes.append(
                f"{self._num_not_text:,} cells are not UTF-8 and were left out; save it as UTF-8"
            )
        return notes

    def read_row(self, column: str, number: int) -> bytes:
        """Read the image in a row again.

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
        if row.problem is not None:
            item = item_name(self._uri, key)
            raise ImageUnreadableError(f"{item}: {row.problem}", item=item)
        return self._decode(row.values.get(column), key)

    def _item(self, row: TextRow, column: str, kinds: ColumnTypes, mtime: int | None) -> Item:
        key = row_key(column, row.number)
        if row.problem is not None:
            return broken(self._uri, row.problem, member=key, is_remote=self._is_remote)
        cell = row.values.get(column)
        metadata = kinds.fit(self._metadata(row, column, as_numbers=False))
        if _stored(cell, column) is not None:
            read = partial(self._read_line, column, row.number, row.offset, row.num_bytes)
            return stored_item(self._uri, key, read, mtime, metadata)
        name = cell.get("path") if isinstance(cell, Mapping) else cell
        if isinstance(name, str) and name:
            return named_item(self._access, self._uri, name, metadata, key)
        return empty_item(self._uri, key)

    def _metadata(
        self, row: TextRow, column: str, *, as_numbers: bool = True
    ) -> dict[str, MetadataValue]:
        """Return a row's values by their columns' names.

        Args:
            row: of the file.
            column: of the images.
            as_numbers: what a CSV cell spells, rather than its text.
        """
        values = {
            name: value for name, value in row.values.items() if name != column and is_scalar(value)
        }
        found: dict[str, MetadataValue] = {}
        for name, own in self._names.columns(values).items():
            value = values[name]
            if self._is_csv and isinstance(value, str):
                if not is_unicode(value):
                    self._num_not_text += 1
                    value = None
                elif as_numbers:
                    value = number_in(value)
            found[own] = self._names.value(value)
        return found

    def _read_line(self, column: str, number: int, offset: int, num_bytes: int) -> bytes:
        key = row_key(column, number)
        item = item_name(self._uri, key)
        line = self._access.read_range(self._uri, offset, num_bytes, item=item)
        if self._header is not None:
            row = csv_row(self._header, number, line)
        else:
            with self._access.open(self._uri) as stream:
                encoding = encoding_at(stream)
            row = json_row(number, line, encoding)
        return self._decode(row.values.get(column), key)

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
            if self._is_csv and not isinstance(number_in(value), str):
                return "other"
            return "bytes" if is_base64(column) else "name"
        return "struct" if isinstance(value, dict) and {"bytes", "path"} & set(value) else "other"

    def _rows(self) -> Generator[TextRow]:
        with self._access.open(self._uri) as opened:
            # Files on stores do not read lines up to a size.
            stream = io.BufferedReader(cast("io.RawIOBase", opened)) if self._is_remote else opened
            if not self._is_csv:
                yield from json_rows(stream)
                return
            try:
                file = CsvFile(stream, is_tsv=suffix(self._uri) == ".tsv")
            except SourceError as err:
                raise SourceError(f"{self._uri}: {err}") from err
            self._header = file.header
            yield from file.rows()


def _stored(cell: object, column: str) -> str | None:
    """Return the base64 text in a cell, if it holds any."""
    text = cell.get("bytes") if isinstance(cell, Mapping) else cell
    is_stored = isinstance(cell, Mapping) or is_base64(column)
    if isinstance(text, str) and text and (is_stored or text.startswith("data:")):
        return text
    return None
