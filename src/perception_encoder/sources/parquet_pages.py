"""How much memory the pages of a parquet column take, told by their headers before any is read.

A page may unfold to a million times its size, and a value that a dictionary holds once may stand in
every row. Sizes in a file's footer are not enough to go by: they may be wrong. Headers are in
Thrift's compact protocol (github.com/apache/parquet-format, `PageHeader`).
"""

from __future__ import annotations

from typing import IO, Any, Final, NamedTuple

MAX_PAGE_BYTES: Final = 256 * 2**20
"""Of one page when it is unpacked. Writers make pages of 1 MB, a few of 100 MB, or of one image."""

_HEAD_BYTES: Final = 2**12
_MAX_HEAD_BYTES: Final = 2**24  # a header holds the smallest and largest value of its page
_MAX_DEPTH: Final = 8
_DELTA_BYTE_ARRAY: Final = 7
# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTS: Final = (4, 5, 6)


class PageBounds(NamedTuple):
    """What the pages of a column in one row group can come to.

    Attributes:
        repeated_bytes: how large a value can be that may stand in many rows at no cost.
        num_values: of all pages.
    """

    repeated_bytes: int
    num_values: int


def page_bounds(stream: IO[bytes], chunk: Any) -> PageBounds:
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
        header, head_bytes = _header_at(stream, position)
        _checked(header)
        if header.is_dictionary or header.encoding == _DELTA_BYTE_ARRAY:
            repeated_bytes = max(repeated_bytes, header.unpacked_bytes)
        if not header.is_dictionary:
            num_values += header.num_values
        position += head_bytes + header.packed_bytes
    return PageBounds(repeated_bytes, num_values)


def repeated_bytes_of(stream: IO[bytes], chunk: Any) -> int:
    """Return `repeated_bytes` of `page_bounds`, or more, by the header of one page.

    Raises:
        ValueError: as `page_bounds`.
    """
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        return MAX_PAGE_BYTES
    if not chunk.dictionary_page_offset:
        return 0
    header, _ = _header_at(stream, chunk.dictionary_page_offset)
    return _checked(header).unpacked_bytes


class _Header(NamedTuple):
    unpacked_bytes: int
    packed_bytes: int
    num_values: int
    encoding: int
    is_dictionary: bool


def _checked(header: _Header) -> _Header:
    if not 0 <= header.unpacked_bytes <= MAX_PAGE_BYTES or header.packed_bytes < 0:
        raise ValueError(
            f"a page of {header.unpacked_bytes:,} bytes, the limit is {MAX_PAGE_BYTES:,}; "
            "write the file again with smaller pages"
        )
    return header


def _header_at(stream: IO[bytes], position: int) -> tuple[_Header, int]:
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
    return _Header(unpacked, packed, max(0, num_values), encoding, 7 in fields), reader.place


class _Compact:
    """Reads a struct of the compact protocol; raises IndexError where the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields by their numbers; texts and lists are left out."""
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
        self.place += 1
        return self._data[self.place - 1]

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
        self.place += num_bytes
        if self.place > len(self._data):
            raise IndexError
