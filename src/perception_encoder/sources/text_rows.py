"""Rows of text indexes, and those of JSON lines. Knows no images.

A row that is damaged is a row with a problem, and the next line is read.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

from perception_encoder.index import MetadataValue
from perception_encoder.sources.text_lines import (
    TOO_LARGE,
    encoding_of,
    read_lines,
    without_mark,
)

_BLANK: Final = b" \t\r\n\0"  # in UTF-16 too
_INT: Final = re.compile(r"-?(0|[1-9]\d{0,18})")
_LONG_INT: Final = re.compile(r"-?\d+")
_INT64: Final = range(-(2**63), 2**63)
_FLOAT: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class TextRow:
    """One row.

    Attributes:
        number: from 0, in the file's order, damaged ones included.
        values: by column; empty cells are None.
        problem: why the row cannot be used, if it cannot.
        offset: where it begins in the file.
        num_bytes: its size in the file.
    """

    number: int
    values: dict[str, object] = field(default_factory=dict)
    problem: str | None = None
    offset: int = 0
    num_bytes: int = 0


def encoding_at(stream: IO[bytes]) -> str:
    """Tell the encoding of a file that can be sought in, and go back to its beginning."""
    encoding = encoding_of(stream.read(2))
    stream.seek(0)
    return encoding


def json_rows(stream: IO[bytes]) -> Iterator[TextRow]:
    """Yield the objects that stand one on each line."""
    number = 0
    encoding = encoding_at(stream)
    for line in read_lines(stream, encoding):
        if line.data is None:
            yield TextRow(number, problem=TOO_LARGE)
        elif not line.data.strip(_BLANK):
            continue
        else:
            yield json_row(number, line.data, encoding, line.offset, line.num_bytes)
        number += 1


def json_row(
    number: int, line: bytes, encoding: str, offset: int = 0, num_bytes: int = 0
) -> TextRow:
    """Read one line, which is there in the file."""
    try:
        values = parse_json(without_mark(line, encoding).decode(encoding))
    except (ValueError, RecursionError) as err:
        return TextRow(number, problem=f"the line is no JSON: {err}")
    if not isinstance(values, dict):
        return TextRow(number, problem="the line is no JSON object")
    return TextRow(number, values, offset=offset, num_bytes=num_bytes)


def parse_json(text: str) -> Any:
    """Read JSON in which no object has a key twice: of these, one value would be lost.

    Raises:
        ValueError: it is no JSON, or has a key twice.
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


def number_in(cell: object) -> MetadataValue:
    """Return the number that a CSV cell spells, or else its text.

    "007" is a text, and so is a number that would not be the same any more: of 20 digits, or 1e999.
    """
    if cell is None:
        return None
    text = str(cell)
    if _INT.fullmatch(text) and int(text) in _INT64:
        return int(text)
    if _LONG_INT.fullmatch(text) or not _FLOAT.fullmatch(text):
        return text
    return number if math.isfinite(number := float(text)) else text
