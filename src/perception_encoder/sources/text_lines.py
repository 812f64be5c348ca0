"""Lines of text files of bounded size, in UTF-8 or UTF-16. Knows no formats."""

import codecs
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

MAX_ROW_BYTES: Final = 64 * 2**20
"""The largest line, and the largest row of a CSV file: an image of 48 MB as base64."""

TOO_LARGE: Final = f"the line is larger than {MAX_ROW_BYTES:,} bytes"

_MAX_PIECE: Final = 2**20


class Line(NamedTuple):
    """One line.

    Attributes:
        data: its bytes with their end, without a byte order mark; None if there are too many.
        offset: where it begins in the file.
        num_bytes: its size in the file.
    """

    data: bytes | None
    offset: int
    num_bytes: int


def encoding_of(head: bytes) -> str:
    """Tell the encoding of a text by its first bytes: UTF-8, or UTF-16 of either order."""
    if head.startswith(codecs.BOM_UTF16_LE) or (head[1:2] == b"\0" and head[:1] != b"\0"):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE) or (head[:1] == b"\0" and head[1:2] != b"\0"):
        return "utf-16-be"
    return "utf-8"


def without_mark(data: bytes, encoding: str) -> bytes:
    """Return the first line without its byte order mark."""
    return data.removeprefix("\ufeff".encode(encoding))


def decoded(data: bytes) -> str | None:
    """Return a whole text, or None if it is neither UTF-8 nor UTF-16."""
    encoding = encoding_of(data[:2])
    try:
        return without_mark(data, encoding).decode(encoding)
    except UnicodeDecodeError:
        return None


def read_lines(stream: IO[bytes], encoding: str) -> Iterator[Line]:
    """Yield the lines of a file, from its beginning."""
    offset = 0
    while True:
        data, num_bytes = _read_line(stream, encoding)
        if not num_bytes:
            return
        if data is not None and offset == 0:
            data = without_mark(data, encoding)
        yield Line(data, offset, num_bytes)
        offset += num_bytes


def _read_line(stream: IO[bytes], encoding: str) -> tuple[bytes | None, int]:
    """Return a line, or None of one that is too large, and how many bytes were read."""
    data, num_bytes = bytearray(), 0
    while piece := stream.readline(_MAX_PIECE):
        if encoding == "utf-16-le" and piece.endswith(b"\n"):
            piece += stream.read(1)
        data += piece
        num_bytes += len(piece)
        if _is_whole(data, num_bytes, encoding):
            break
        if num_bytes > MAX_ROW_BYTES:
            del data[:-2]
    return (bytes(data) if num_bytes <= MAX_ROW_BYTES else None), num_bytes


def _is_whole(data: bytearray, num_bytes: int, encoding: str) -> bool:
    """Whether data ends with a line's end; in UTF-16 that is a whole character."""
    end = "\n".encode(encoding)
    return data.endswith(end) and num_bytes % len(end) == 0
