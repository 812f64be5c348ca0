"""Images that a Parquet file names or holds, also in the layout of Hugging Face datasets.

Listing reads all columns but the images. Images are read row by row when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

from perception_encoder.errors import (
    ImageError,
    ImageNotFoundError,
    ImageUnreadableError,
    SourceError,
)
from perception_encoder.index import item_name
from perception_encoder.sources.access import FileAccess
from perception_encoder.sources.columns import (
    ColumnKind,
    MetadataColumns,
    check_unique,
    folder_of,
    make_empty_item,
    make_named_item,
    make_stored_item,
    row_key,
)
from perception_encoder.sources.item import Item, make_absolute
from perception_encoder.sources.parquet_cells import (
    CellReader,
    OpenParquet,
    bound_repeated_bytes,
    column_chunks,
    read_page_bounds,
    rows_within,
)

_ROWS_LISTED: Final = 1024
_BUFFER_BYTES: Final = 2**20
_BATCH_BYTES: Final = 128 * 2**20  # of dictionary values, repeated in all rows of a batch
_SMALL_BYTES: Final = 2**17  # of a dictionary: not worth a closer look
_DICTIONARY_BYTES: Final = 4 * 2**20  # what writers allow, and some more
_MAX_LIST: Final = 10_000  # texts of one row on average; an image has a few captions
_MAX_ROWS_OF_A_BYTE: Final = 16  # of the whole file; different names take more
_NUM_SHOWN: Final = 3


class ParquetTable:
    """One parquet file.

    Args:
        uri: absolute path or URL.
        access: reads it.
    """

    def __init__(self, uri: str, access: FileAccess) -> None:
        self._uri = uri
        self._access = access
        self._names = MetadataColumns()
        self._long_lists = set[str]()

    def kinds(self) -> dict[str, ColumnKind]:
        """Return the kind of each column by its type."""
        with self._opened() as (file, _):
            try:
                check_unique(file.schema_arrow.names)
            except SourceError as err:
                raise SourceError(f"{self._uri}: {err}") from err
            return {field.name: _kind(field.type) for field in file.schema_arrow}

    def items(self, column: str) -> Iterator[Item]:
        """Yield the images that a column holds or names.

        Raises:
            ImageError: some or all rows cannot be read. All readable rows are yielded first.
        """
        info = self._access.info(self._uri)
        errors = []
        self._names, self._long_lists = MetadataColumns(), set()
        with self._opened() as opened:
            is_named = _kind(opened.file.schema_arrow.field(column).type) == "name"
            cells = self._cells(opened, column)
            first = 0
            for group, size in enumerate(_num_rows(opened.file)):
                number = first
                try:
                    _check_rows(size, info.bytes)
                    for name, metadata in self._iter_rows(opened, group, column, is_named=is_named):
                        key = row_key(column, number)
                        if not is_named:
                            read = partial(self._read, cells, column, number)
                            yield make_stored_item(self._uri, key, read, info.mtime, metadata)
                        elif name:
                            yield make_named_item(self._access, self._uri, name, metadata, key)
                        else:
                            yield make_empty_item(self._uri, key)
                        number += 1
                except Exception as err:  # noqa: BLE001 — raised below, after the other rows
                    errors.append(f"rows from {number:,} on ({err})")
                first += size
        if errors:
            raise ImageUnreadableError(
                f"{self._uri}: damaged: {'; '.join(errors[:_NUM_SHOWN])}; fetch the file again",
                item=self._uri,
            )

    def notes(self) -> list[str]:
        """Describe the values that were left out."""
        notes = self._names.notes()
        if self._long_lists:
            names = ", ".join(sorted(self._long_lists))
            notes.append(f"left out {names}: more than {_MAX_LIST:,} values in a row")
        return notes

    def read_row(self, column: str, number: int) -> bytes:
        """Read the image in a row again.

        Raises:
            ImageNotFoundError: the file has no such row or column any more.
            ImageError: it cannot be read.
        """
        with self._opened() as opened:
            if column not in opened.file.schema_arrow.names:
                raise self._gone(column, number)
            cells = self._cells(opened, column, num_kept=1)
        return self._read(cells, column, number)

    def _cells(self, opened: OpenParquet, column: str, num_kept: int = 8) -> CellReader:
        num_rows = _num_rows(opened.file)
        row_bytes = 0
        places = column_chunks(opened.file.schema_arrow)[column]
        for group, size in enumerate(num_rows):
            row_group = opened.file.metadata.row_group(group)
            for chunk in map(row_group.column, places):
                average = chunk.total_uncompressed_size // max(1, size)
                with suppress(ValueError):  # reported when the rows are read
                    average = max(average, bound_repeated_bytes(opened.stream, chunk))
                row_bytes = max(row_bytes, average)
        return CellReader(self._opened, column, num_rows, row_bytes=row_bytes, num_kept=num_kept)

    def _iter_rows(
        self, opened: OpenParquet, group: int, column: str, *, is_named: bool
    ) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """Yield the image name and the metadata of each row, without reading images."""
        file = opened.file
        types = {
            field.name: target
            for field in file.schema_arrow
            if field.name != column and (target := _plain_type(field.type)) is not None
        }
        names, places = self._names.columns(types), column_chunks(file.schema_arrow)
        sizes = {
            name: self._repeated_bytes(opened, group, name, places[name])
            for name in ([*names, column] if is_named else names)
        }
        targets = {name: types[name] for name in names if sizes[name] is not None}
        wanted = [*targets, column] if is_named else list(targets)
        if not wanted:
            yield from ((None, {}) for _ in range(file.metadata.row_group(group).num_rows))
            return
        rows = rows_within(_BATCH_BYTES, sum(sizes[name] or 0 for name in wanted), _ROWS_LISTED)
        for batch in file.iter_batches(rows, row_groups=[group], columns=wanted):
            values = {
                names[name]: [self._names.value(one.as_py()) for one in batch[name].cast(target)]
                for name, target in targets.items()
            }
            cells = batch[column].cast("string").to_pylist() if is_named else [None] * len(batch)
            for number, cell in enumerate(cells):
                yield cell, {name: column_values[number] for name, column_values in values.items()}

    def _repeated_bytes(
        self, opened: OpenParquet, group: int, column: str, places: range
    ) -> int | None:
        """Return the largest size of a repeated value; None where a row may hold millions.

        Raises:
            ValueError: a page is too large or damaged.
        """
        row_group = opened.file.metadata.row_group(group)
        bounds = [read_page_bounds(opened.stream, row_group.column(place)) for place in places]
        if sum(bound.num_values for bound in bounds) > _MAX_LIST * max(1, row_group.num_rows):
            self._long_lists.add(repr(column))
            return None
        repeated_bytes = sum(bound.repeated_bytes for bound in bounds)
        if len(bounds) == 1 and _SMALL_BYTES < repeated_bytes <= _DICTIONARY_BYTES:
            return self._largest_value(group, column) or repeated_bytes
        return repeated_bytes

    def _largest_value(self, group: int, column: str) -> int | None:
        """Return the size of the largest text in the column's dictionary, if it has one."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
        from pyarrow import types

        with (
            self._access.open(self._uri) as stream,
            pq.ParquetFile(stream, read_dictionary=[column], pre_buffer=False) as file,
        ):
            chunk = file.metadata.row_group(group).column(
                column_chunks(file.schema_arrow)[column][0]
            )
            if "DELTA_BYTE_ARRAY" in chunk.encodings:
                return None
            batches = file.iter_batches(1, row_groups=[group], columns=[column], use_threads=False)
            values = next(batches)[column]
            if not (types.is_dictionary(values.type) and types.is_string(values.type.value_type)):
                return None
            largest: int | None = pc.max(pc.binary_length(values.dictionary)).as_py()
            return largest

    def _read(self, cells: CellReader, column: str, number: int) -> bytes:
        item = item_name(self._uri, row_key(column, number))
        try:
            cell = cells.cell(number)
        except ImageError:
            raise
        except EOFError as err:
            raise self._gone(column, number) from err
        except Exception as err:
            message = f"{item}: cannot be read: {err}; fetch the file again"
            raise ImageUnreadableError(message, item=item) from err
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(data, bytes):
            return data
        path = cell.get("path") if isinstance(cell, dict) else None
        if path:
            return self._access.read(make_absolute(path, folder_of(self._uri)))
        raise ImageUnreadableError(f"{item}: the cell is empty; drop the row", item=item)

    def _gone(self, column: str, number: int) -> ImageNotFoundError:
        item = item_name(self._uri, row_key(column, number))
        return ImageNotFoundError(
            f"{item}: the table has no such row or column any more", item=item
        )

    @contextmanager
    def _opened(self) -> Iterator[OpenParquet]:
        import pyarrow.parquet as pq

        with (
            self._access.open(self._uri) as stream,
            # Buffered: one page at a time, not a whole column chunk.
            pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file,
        ):
            yield OpenParquet(file, stream)


def _num_rows(file: Any) -> list[int]:
    """Return how many rows each row group has."""
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _check_rows(num_rows: int, num_bytes: int | None) -> None:
    """Refuse a number of rows that the file cannot hold as different names."""
    if num_bytes is not None and num_rows > _MAX_ROWS_OF_A_BYTE * num_bytes:
        raise ValueError(f"{num_rows:,} rows in a file of {num_bytes:,} bytes")


def _kind(type_: Any) -> ColumnKind:
    from pyarrow import types

    value = type_.value_type if types.is_dictionary(type_) else type_
    if types.is_string(value) or types.is_large_string(value) or types.is_string_view(value):
        return "name"
    if _is_binary(value):
        return "bytes"
    if types.is_struct(type_):
        fields = {field.name: field.type for field in type_}
        if "bytes" in fields and _is_binary(fields["bytes"]):
            return "struct"
    return "other"


def _is_binary(type_: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_binary(type_) or types.is_large_binary(type_) or types.is_binary_view(type_)
    )


def _plain_type(type_: Any) -> Any | None:
    """Return the type of the column as metadata; None to leave it out."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_list(type_) or types.is_large_list(type_):
        return pa.list_(pa.string()) if _kind(type_.value_type) == "name" else None
    value = type_.value_type if types.is_dictionary(type_) else type_
    if _kind(value) == "name" or (types.is_temporal(value) and not types.is_duration(value)):
        return pa.string()
    if types.is_boolean(value):
        return pa.bool_()
    if types.is_integer(value):
        return pa.uint64() if types.is_uint64(value) else pa.int64()
    if types.is_floating(value) or types.is_decimal(value):
        return pa.float64()
    return None
