"""Reads cells of a Parquet column within a bounded amount of memory.

A page may unpack to a million times its size, and a dictionary may hold a value that every row
repeats. The sizes in a file's footer may be wrong, so the header of each page is read first. Page
headers use Thrift's compact protocol (github.com/apache/parquet-format, `PageHeader`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate, islice
from typing import IO, Any, Final, NamedTuple

from perception_encoder.sources.forward import ForwardReader

MAX_PAGE_BYTES: Final = 256 * 2**20
"""Of one unpacked page. Writers make pages of 1 MB, some of 100 MB, or of one image."""

_MAX_CHUNK_ROWS: Final = 16
_MAX_KEPT_BYTES: Final = 256 * 2**20
_HEAD_BYTES: Final = 2**12
_MAX_HEAD_BYTES: Final = 2**24  # a header holds the smallest and largest value of its page
_MAX_DEPTH: Final = 8
_DELTA_BYTE_ARRAY: Final = 7
# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTS: Final = (4, 5, 6)


class OpenParquet(NamedTuple):
    """A `pyarrow.parquet.ParquetFile`, and the stream it reads."""

    file: Any
    stream: IO[bytes]


class CellReader:
    """Reads cells in chunks of a few rows, so a row group need not fit in memory.

    Damage costs at most the row group that has it.

    Args:
        open_file: opens the file.
        column: the column to read.
        num_rows: the number of rows of each row group.
        row_bytes: the average size of a cell.
        num_kept: how many chunks of up to 16 rows are kept for other threads.
    """

    def __init__(
        self,
        open_file: Callable[[], AbstractContextManager[OpenParquet]],
        column: str,
        num_rows: Sequence[int],
        *,
        row_bytes: int,
        num_kept: int = 8,
    ) -> None:
        self._size = size = rows_within(_MAX_KEPT_BYTES // num_kept, row_bytes, _MAX_CHUNK_ROWS)
        self._first_rows = list(accumulate(num_rows, initial=0))
        self._first_chunks = list(accumulate((-(-n // size) for n in num_rows), initial=0))
        chunks = partial(_chunks, open_file, column, self._first_chunks, size)
        self._reader: ForwardReader[Any] = ForwardReader(
            chunks, num_kept=num_kept, size_of=_num_bytes, max_size=_MAX_KEPT_BYTES
        )

    def cell(self, row: int) -> object:
        """Return the cell of a row.

        Raises:
            EOFError: there is no such row.
            Exception: whatever reading raises.
        """
        if not 0 <= row < self._first_rows[-1]:
            raise EOFError(f"there is no row {row}")
        group = bisect_right(self._first_rows, row) - 1
        chunk, place = divmod(row - self._first_rows[group], self._size)
        cell: object = self._reader.read(self._first_chunks[group] + chunk)[place].as_py()
        return cell


def rows_within(num_bytes: int, row_bytes: int, max_rows: int) -> int:
    """Return how many rows of that size fit into `num_bytes`; at least 1."""
    return max(1, min(max_rows, num_bytes // max(1, row_bytes)))


def column_chunks(schema: Any) -> dict[str, range]:
    """Return the column chunks of each column; a struct has one for each of its fields."""
    places: dict[str, range] = {}
    first = 0
    for field in schema:
        count = _num_leaves(field.type)
        places[field.name] = range(first, first + count)
        first += count
    return places


def _num_leaves(type_: Any) -> int:
    from pyarrow import types

    if types.is_struct(type_) or types.is_map(type_):
        return sum(_num_leaves(type_.field(place).type) for place in range(type_.num_fields))
    if types.is_nested(type_):  # lists of all kinds
        return _num_leaves(type_.value_type)
    return 1


def _num_bytes(array: Any) -> int:
    return int(array.nbytes)


def _chunks(
    open_file: Callable[[], AbstractContextManager[OpenParquet]],
    column: str,
    first_chunks: Sequence[int],
    size: int,
    start: int,
) -> Iterator[Any]:
    """Yield arrays of cells, from the given chunk to the end of its row group."""
    group = bisect_right(first_chunks, start) - 1
    with open_file() as (file, stream):
        row_group = file.metadata.row_group(group)
        places = column_chunks(file.schema_arrow)[column]
        bounds = [read_page_bounds(stream, row_group.column(place)) for place in places]
        repeated_bytes = sum(bound.repeated_bytes for bound in bounds)
        batches = file.iter_batches(
            rows_within(_MAX_KEPT_BYTES, repeated_bytes, size),
            row_groups=[group],
            columns=[column],
            use_threads=False,
        )
        chunks = _regroup((batch[column] for batch in batches), size)
        yield from islice(chunks, start - first_chunks[group], None)


def _regroup(arrays: Iterator[Any], size: int) -> Iterator[Any]:
    """Cut arrays of any size into arrays of `size` cells; the last one may be shorter."""
    import pyarrow as pa

    waiting = None
    for array in arrays:
        cells = array if waiting is None else pa.concat_arrays([waiting, array])
        while len(cells) >= size:
            yield cells[:size]
            cells = cells[size:]
        waiting = cells if len(cells) else None
    if waiting is not None:
        yield waiting


class PageBounds(NamedTuple):
    """Upper bounds of what the pages of a column chunk unpack to.

    Attributes:
        repeated_bytes: the largest size of a value that many rows can repeat at no cost.
        num_values: the number of values in all pages.
    """

    repeated_bytes: int
    num_values: int


def read_page_bounds(stream: IO[bytes], chunk: Any) -> PageBounds:
    """Read the headers of a column's pages.

    Args:
        stream: the file.
        chunk: its `pyarrow.parquet.ColumnChunkMetaData`.

    Raises:
        ValueError: a page is larger than `MAX_PAGE_BYTES`, or its header is damaged.
    """
    starts = [start for start in (chunk.dictionary_page_offset, chunk.data_page_offset) if start]
    position = min(starts) if starts else chunk.data_page_offset
    end = position + chunk.total_compressed_size
    repeated_bytes = num_values = 0
    while position < end and num_values < chunk.num_values:
        header, head_bytes = _read_header(stream, position)
        _check_header(header)
        if header.is_dictionary or header.encoding == _DELTA_BYTE_ARRAY:
            repeated_bytes = max(repeated_bytes, header.unpacked_bytes)
        if not header.is_dictionary:
            num_values += header.num_values
        position += head_bytes + header.packed_bytes
    return PageBounds(repeated_bytes, num_values)


def bound_repeated_bytes(stream: IO[bytes], chunk: Any) -> int:
    """Return an upper bound of `PageBounds.repeated_bytes` from the header of one page.

    Raises:
        ValueError: as `read_page_bounds`.
    """
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        return MAX_PAGE_BYTES
    if not chunk.dictionary_page_offset:
        return 0
    header, _ = _read_header(stream, chunk.dictionary_page_offset)
    return _check_header(header).unpacked_bytes


class _Header(NamedTuple):
    unpacked_bytes: int
    packed_bytes: int
    num_values: int
    encoding: int
    is_dictionary: bool


def _check_header(header: _Header) -> _Header:
    if not 0 <= header.unpacked_bytes <= MAX_PAGE_BYTES or header.packed_bytes < 0:
        raise ValueError(
            f"a page of {header.unpacked_bytes:,} bytes, the limit is {MAX_PAGE_BYTES:,}; "
            "write the file again with smaller pages"
        )
    return header


def _read_header(stream: IO[bytes], position: int) -> tuple[_Header, int]:
    size = _HEAD_BYTES
    while True:
        stream.seek(position)
        data = stream.read(size)
        reader = _Compact(data)
        try:
            fields = reader.struct()
            break
        except IndexError as err:
            if len(data) < size or size >= _MAX_HEAD_BYTES:
                raise ValueError("the header of a page is damaged") from err
            size *= 16
    own: dict[int, Any] = next(
        (fields[key] for key in (5, 7, 8) if isinstance(fields.get(key), dict)), {}
    )
    numbers = [fields.get(2), fields.get(3), own.get(1, 0), own.get(4 if 8 in fields else 2, 0)]
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError("the header of a page is damaged")
    unpacked, packed, num_values, encoding = numbers
    return _Header(unpacked, packed, max(0, num_values), encoding, 7 in fields), reader.position


class _Compact:
    """Parses a struct of the compact protocol; raises IndexError where the data ends early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields by their ids; texts and lists are left out."""
        if depth > _MAX_DEPTH:
            raise ValueError("the header of a page is damaged")
        fields: dict[int, Any] = {}
        key = 0
        while head := self._byte():
            kind = head & 15
            key = key + (head >> 4) if head >> 4 else self._int()
            fields[key] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in _INTS:
            return self._int()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _BINARY:
            self._skip(self._varint())
        elif kind in (_BYTE, _DOUBLE):
            self._skip(1 if kind == _BYTE else 8)
        elif kind in (_LIST, _SET):
            self._list(depth)
        else:
            raise ValueError("the header of a page is damaged")
        return None

    def _list(self, depth: int) -> None:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        if depth > _MAX_DEPTH:
            raise ValueError("the header of a page is damaged")
        for _ in range(count):
            self._value(head & 15, depth + 1)

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _varint(self) -> int:
        number = shift = 0
        while (octet := self._byte()) & 128:
            number |= (octet & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("the header of a page is damaged")
        return number | octet << shift

    def _int(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _skip(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self._data):
            raise IndexError
