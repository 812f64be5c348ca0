"""Rows of text files in UTF-8 or UTF-16: lines of a bounded size, and JSON lines.

A damaged row is returned with its error, and reading continues with the next line.
"""

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

from perception_encoder.index import MetadataValue

MAX_ROW_BYTES: Final = 64 * 2**20
"""The largest line or CSV row: an image of 48 MB as base64."""

TOO_LARGE: Final = f"the line is larger than {MAX_ROW_BYTES:,} bytes"

_MAX_PIECE: Final = 2**20
_BLANK: Final = b" \t\r\n\0"  # in UTF-16 too
_INT: Final = re.compile(r"-?(0|[1-9]\d{0,18})")
_LONG_INT: Final = re.compile(r"-?\d+")
_INT64: Final = range(-(2**63), 2**63)
_FLOAT: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        data: its bytes with the line ending, without a byte order mark; None if it is too large.
        offset: where it begins in the file.
        num_bytes: its size in the file.
    """

    data: bytes | None
    offset: int
    num_bytes: int


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text by its first bytes: UTF-8, or UTF-16 in either byte order."""
    if head.startswith(codecs.BOM_UTF16_LE) or (head[1:2] == b"\0" and head[:1] != b"\0"):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE) or (head[:1] == b"\0" and head[1:2] != b"\0"):
        return "utf-16-be"
    return "utf-8"


def strip_bom(data: bytes, encoding: str) -> bytes:
    """Return data without a byte order mark."""
    return data.removeprefix("\ufeff".encode(encoding))


def decode_text(data: bytes) -> str | None:
    """Decode a whole text; None if it is neither UTF-8 nor UTF-16."""
    encoding = encoding_of(data[:2])
    try:
        return strip_bom(data, encoding).decode(encoding)
    except UnicodeDecodeError:
        return None


def read_lines(stream: IO[bytes], encoding: str) -> Iterator[Line]:
    """Yield the lines of a file from its beginning."""
    offset = 0
    while True:
        data, num_bytes = _read_line(stream, encoding)
        if not num_bytes:
            return
        if data is not None and offset == 0:
            data = strip_bom(data, encoding)
        yield Line(data, offset, num_bytes)
        offset += num_bytes


def _read_line(stream: IO[bytes], encoding: str) -> tuple[bytes | None, int]:
    """Return a line, or None if it is too large, and the number of bytes read."""
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
    """Whether data ends with a line ending, which is a whole character in UTF-16."""
    end = "\n".encode(encoding)
    return data.endswith(end) and num_bytes % len(end) == 0


@dataclass(frozen=True, slots=True)
class TextRow:
    """One row of a table.

    Attributes:
        number: its number from 0, damaged rows included.
        values: by column; empty cells are None.
        error: why it cannot be used, or None.
        offset: where it begins in the file.
        num_bytes: its size in the file.
    """

    number: int
    values: dict[str, object] = field(default_factory=dict)
    error: str | None = None
    offset: int = 0
    num_bytes: int = 0


def detect_encoding(stream: IO[bytes]) -> str:
    """Return the encoding of a seekable file, which is rewound."""
    encoding = encoding_of(stream.read(2))
    stream.seek(0)
    return encoding


def read_json_rows(stream: IO[bytes]) -> Iterator[TextRow]:
    """Yield the JSON objects of a file, one per line."""
    number = 0
    encoding = detect_encoding(stream)
    for line in read_lines(stream, encoding):
        if line.data is None:
            yield TextRow(number, error=TOO_LARGE)
        elif not line.data.strip(_BLANK):
            continue
        else:
            yield parse_json_row(number, line.data, encoding, line.offset, line.num_bytes)
        number += 1


def parse_json_row(
    number: int, line: bytes, encoding: str, offset: int = 0, num_bytes: int = 0
) -> TextRow:
    """Parse one line."""
    try:
        values = parse_json(strip_bom(line, encoding).decode(encoding))
    except (ValueError, RecursionError) as err:
        return TextRow(number, error=f"the line is not JSON: {err}")
    if not isinstance(values, dict):
        return TextRow(number, error="the line is not a JSON object")
    return TextRow(number, values, offset=offset, num_bytes=num_bytes)


def parse_json(text: str) -> Any:
    """Parse JSON. A key that an object has twice is an error, as one value would be lost.

    Raises:
        ValueError: it is not JSON, or has a key twice.
        RecursionError: it is nested too deeply.
    """
    return _JSON.decode(text)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} is there twice; rename one")
    return found


_JSON: Final = json.JSONDecoder(object_pairs_hook=_object)


def parse_number(cell: object) -> MetadataValue:
    """Return the number in a CSV cell, or else its text.

    "007" is a text, and so is a number that would change: one of 20 digits, or 1e999.
    """
    if cell is None:
        return None
    text = str(cell)
    if _INT.fullmatch(text) and int(text) in _INT64:
        return int(text)
    if _LONG_INT.fullmatch(text) or not _FLOAT.fullmatch(text):
        return text
    return number if math.isfinite(number := float(text)) else text
