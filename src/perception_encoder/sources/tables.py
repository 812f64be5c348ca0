"""Tables as sources: Parquet, CSV and JSON lines, one file or several with the same columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Final, Protocol, cast

from perception_encoder.errors import (
    ImageError,
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
from perception_encoder.sources.item import Item, is_unicode, make_broken_item, scheme_of
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
    """One file of rows.

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
            return make_broken_item(self._uri, row.problem, member=key, is_remote=self._is_remote)
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
            # Files on stores do not read lines up to a size.
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
    """Return the base64 text in a cell, if it holds any."""
    text = cell.get("bytes") if isinstance(cell, Mapping) else cell
    is_stored = isinstance(cell, Mapping) or is_base64(column)
    if isinstance(text, str) and text and (is_stored or text.startswith("data:")):
        return text
    return None


class Table(Protocol):
    """One file of rows, whatever its format."""

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return what each column holds."""
        ...

    def items(self, column: str) -> Iterator[Item]:
        """Yield the images that a column holds or names."""
        ...

    def notes(self) -> list[str]:
        """Say what `items` has left out, when it has ended."""
        ...

    def read_row(self, column: str, number: int) -> bytes:
        """Read the image in a row again."""
        ...


class TableSource:
    """Tables on this machine or elsewhere.

    Args:
        name: as they were given.
        uris: absolute paths or URLs.
        access: reads them.
        column: the column with the images; found by its name or type if None.
        once_held: says which other tables the name would have meant, had they existed.
        leaves_out: says which other tables the name means that are to be left out.
    """

    def __init__(
        self,
        name: str,
        uris: Sequence[str],
        access: FileAccess,
        column: str | None,
        once_held: Callable[[str], bool] = lambda _: False,
        leaves_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.name = name
        self._uris = uris
        self._known = frozenset(uris)
        self._access = access
        self._column = column
        self._once_held = once_held
        self._leaves_out = leaves_out
        self._notes: list[str] = []
        self._damaged = set[str]()

    def check(self) -> None:
        """See whether the first table has images; one that is damaged is met again in `items`.

        Raises:
            SourceError: no column holds any.
        """
        try:
            self._find_column(self._uris[0])
        except SourceError:
            raise
        except Exception:  # noqa: BLE001 — `items` reports it, and goes on to the next table
            return

    def items(self) -> Iterator[Item]:
        """List the images of each table in its own order."""
        self._damaged.clear()
        self._notes.clear()
        for uri in self._uris:
            table = open_table(uri, self._access)
            try:
                yield from table.items(find_image_column(uri, table.kinds(), self._column))
                self._notes += [f"{uri}: {note}" for note in table.notes()]
            except Exception as err:  # noqa: BLE001 — one table must not end the run
                self._damaged.add(uri)
                is_ours = isinstance(err, ImageError | SourceError)
                reason = str(err) if is_ours else f"the table is damaged: {err}; fetch it again"
                yield make_broken_item(uri, reason, is_remote=bool(scheme_of(uri)))

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Say whether `items` would list this row; of images elsewhere that is never known."""
        return uri not in self._damaged and (uri in self._known or self._once_held(uri))

    def notes(self) -> list[str]:
        """Say what of the tables was left out."""
        return list(self._notes)

    def leaves_out(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Say whether the table is left out by a pattern."""
        return uri not in self._known and self._leaves_out(uri)

    def _find_column(self, uri: str) -> str:
        return find_image_column(uri, open_table(uri, self._access).kinds(), self._column)


def open_table(uri: str, access: FileAccess) -> Table:
    """Return the table in a file, by how its name ends."""
    return ParquetTable(uri, access) if suffix_of(uri) == ".parquet" else TextTable(uri, access)


def read_row(access: FileAccess, uri: str, member: str) -> bytes:
    """Read the image in a table's row again.

    Raises:
        ImageNotFoundError: the table, or the row in it, is gone.
        ImageError: it cannot be read.
    """
    key = split_row_key(member)
    if key is None:
        item = item_name(uri, member)
        raise ImageNotFoundError(f"{item}: no image of a row is named so", item=item)
    return open_table(uri, access).read_row(*key)
