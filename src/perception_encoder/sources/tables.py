"""Tables as sources: Parquet, CSV and JSON lines, one file or several with the same columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Final, Protocol, cast

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageUnreadableError,
    SourceError,
)
from perception_encoder.index import MetadataValue, item_name
from perception_encoder.sources.access import FileAccess
from perception_encoder.sources.columns import (
    ColumnKind,
    ColumnTypes,
    MetadataColumns,
    decode_base64,
    find_image_column,
    is_base64,
    is_scalar,
    make_empty_item,
    make_named_item,
    make_stored_item,
    row_key,
    split_row_key,
)
from perception_encoder.sources.csv_rows import CsvFile, CsvHeader, read_csv_row
from perception_encoder.sources.item import (
    ContainerSource,
    Item,
    is_unicode,
    make_broken_item,
    scheme_of,
)
from perception_encoder.sources.parquet_table import ParquetTable
from perception_encoder.sources.patterns import suffix_of
from perception_encoder.sources.text_rows import (
    TextRow,
    detect_encoding,
    parse_json_row,
    parse_number,
    read_json_rows,
)

_SAMPLE: Final = 100


class TextTable:
    """A CSV or JSON lines file that names images, or holds them as base64.

    Args:
        uri: absolute path or URL.
        access: reads it.
    """

    def __init__(self, uri: str, access: FileAccess) -> None:
        self._uri = uri
        self._access = access
        self._is_remote = bool(scheme_of(uri))
        self._is_csv = suffix_of(uri) in (".csv", ".tsv")
        self._header: CsvHeader | None = None
        self._names = MetadataColumns()
        self._num_not_text = 0

    def kinds(self) -> dict[str, ColumnKind]:
        """Return the kind of each column by the first rows."""
        kinds: dict[str, ColumnKind] = {}
        with closing(self._rows()) as rows:
            for row in islice(rows, _SAMPLE):
                for name, value in row.values.items():
                    if kinds.get(name, "other") == "other" and value is not None:
                        kinds[name] = self._kind(name, value)
        # A column that is empty so far may hold the images.
        names = self._header.names if self._header is not None else kinds
        return {name: kinds.get(name, "name") for name in names}

    def items(self, column: str) -> Iterator[Item]:
        """Yield the images that a column holds or names. The file is read twice, to find types.

        Raises:
            ImageError: the file cannot be read.
        """
        mtime = self._access.info(self._uri).mtime
        kinds = ColumnTypes()
        self._names, self._num_not_text = MetadataColumns(), 0
        for row in self._rows():
            kinds.see(self._metadata(row, column))
        self._num_not_text = 0
        self._names.count_anew()
        for row in self._rows():
            yield self._item(row, column, kinds, mtime)

    def notes(self) -> list[str]:
        """Describe the values that were skipped."""
        notes = self._names.notes()
        if self._num_not_text:
            notes.append(
                f"{self._num_not_text:,} cells are not UTF-8 and were left out; save it as UTF-8"
            )
        return notes

    def read_row(self, column: str, number: int) -> bytes:
        """Read the image of a row.

        Raises:
            ImageNotFoundError: the row or column is gone.
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
        if row.error is not None:
            item = item_name(self._uri, key)
            raise ImageUnreadableError(f"{item}: {row.error}", item=item)
        return self._decode(row.values.get(column), key)

    def _item(self, row: TextRow, column: str, kinds: ColumnTypes, mtime: int | None) -> Item:
        key = row_key(column, row.number)
        if row.error is not None:
            return make_broken_item(self._uri, row.error, member=key, is_remote=self._is_remote)
        cell = row.values.get(column)
        metadata = kinds.fit(self._metadata(row, column, as_numbers=False))
        if _stored(cell, column) is not None:
            read = partial(self._read_line, column, row.number, row.offset, row.num_bytes)
            return make_stored_item(self._uri, key, read, mtime, metadata)
        name = cell.get("path") if isinstance(cell, Mapping) else cell
        if isinstance(name, str) and name:
            return make_named_item(self._access, self._uri, name, metadata, key)
        return make_empty_item(self._uri, key)

    def _metadata(
        self, row: TextRow, column: str, *, as_numbers: bool = True
    ) -> dict[str, MetadataValue]:
        """Return the metadata of a row by column.

        Args:
            row: of the file.
            column: the column with the images.
            as_numbers: convert CSV cells to the numbers in them.
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
                    value = parse_number(value)
            found[own] = self._names.value(value)
        return found

    def _read_line(self, column: str, number: int, offset: int, num_bytes: int) -> bytes:
        key = row_key(column, number)
        item = item_name(self._uri, key)
        line = self._access.read_range(self._uri, offset, num_bytes, item=item)
        if self._header is not None:
            row = read_csv_row(self._header, number, line)
        else:
            with self._access.open(self._uri) as stream:
                encoding = detect_encoding(stream)
            row = parse_json_row(number, line, encoding)
        return self._decode(row.values.get(column), key)

    def _decode(self, cell: object, key: str) -> bytes:
        column = key.rpartition(":")[0]
        item = item_name(self._uri, key)
        text = _stored(cell, column)
        if text is None:
            raise ImageUnreadableError(
                f"{item}: the row holds no bytes any more; index the table again", item=item
            )
        return decode_base64(text, item)

    def _kind(self, column: str, value: object) -> ColumnKind:
        if isinstance(value, str):
            if self._is_csv and not isinstance(parse_number(value), str):
                return "other"
            return "bytes" if is_base64(column) else "name"
        return "struct" if isinstance(value, dict) and {"bytes", "path"} & set(value) else "other"

    def _rows(self) -> Generator[TextRow]:
        with self._access.open(self._uri) as opened:
            # Files of stores cannot read lines of a limited size.
            stream = io.BufferedReader(cast("io.RawIOBase", opened)) if self._is_remote else opened
            if not self._is_csv:
                yield from read_json_rows(stream)
                return
            try:
                file = CsvFile(stream, is_tsv=suffix_of(self._uri) == ".tsv")
            except SourceError as err:
                raise SourceError(f"{self._uri}: {err}") from err
            self._header = file.header
            yield from file.rows()


def _stored(cell: object, column: str) -> str | None:
    """Return the base64 text in a cell, or None."""
    text = cell.get("bytes") if isinstance(cell, Mapping) else cell
    is_stored = isinstance(cell, Mapping) or is_base64(column)
    if isinstance(text, str) and text and (is_stored or text.startswith("data:")):
        return text
    return None


class Table(Protocol):
    """One table in a file of any format."""

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return the kind of each column."""
        ...

    def items(self, column: str) -> Iterator[Item]:
        """Yield the images that a column holds or names."""
        ...

    def notes(self) -> list[str]:
        """Describe what `items` has skipped; to be called after it."""
        ...

    def read_row(self, column: str, number: int) -> bytes:
        """Read the image of a row."""
        ...


class TableSource(ContainerSource):
    """Tables on this machine or on a network.

    Args:
        access: reads them.
        column: the column with the images; found by its name or type if None.
        name, uris, once_held, leaves_out: see `ContainerSource`.
    """

    def __init__(
        self,
        access: FileAccess,
        column: str | None,
        name: str,
        uris: Sequence[str],
        once_held: Callable[[str], bool] = lambda _: False,
        leaves_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        super().__init__(name, uris, once_held, leaves_out)
        self._access = access
        self._column = column

    def check(self) -> None:
        """Check that the first table has images. `items` reports a damaged table.

        Raises:
            SourceError: no column holds images.
        """
        uri = self._uris[0]
        try:
            find_image_column(uri, open_table(uri, self._access).kinds(), self._column)
        except SourceError:
            raise
        except Exception:  # noqa: BLE001 — `items` reports it, and goes on to the next table
            return

    def _describe(self, err: Exception) -> str:
        return f"the table is damaged: {err}; fetch it again"

    def _list(self, uri: str) -> Iterator[Item]:
        table = open_table(uri, self._access)
        yield from table.items(find_image_column(uri, table.kinds(), self._column))
        self._notes += [f"{uri}: {note}" for note in table.notes()]


def open_table(uri: str, access: FileAccess) -> Table:
    """Open the table in a file, by its suffix."""
    return ParquetTable(uri, access) if suffix_of(uri) == ".parquet" else TextTable(uri, access)


def read_row(access: FileAccess, uri: str, member: str) -> bytes:
    """Read the image of a table's row.

    Raises:
        ImageNotFoundError: the table or the row is gone.
        ImageError: it cannot be read.
    """
    key = split_row_key(member)
    if key is None:
        item = item_name(uri, member)
        raise ImageNotFoundError(f"{item}: no image of a row is named so", item=item)
    return open_table(uri, access).read_row(*key)
