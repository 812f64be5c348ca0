"""Rows of CSV and JSON lines, one after the other. Knows no pictures.

A line that is damaged is a row with a problem, and the next one is read.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final

from perception_encoder.index import MetadataValue

_SEPARATORS: Final = ",;\t"
_INT: Final = re.compile(r"-?(0|[1-9]\d{0,17})")
_FLOAT: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class TextRow:
    """One row.

    Attributes:
        number: from 0, in the file's order, damaged ones included.
        values: by column; empty cells are None.
        problem: why the row cannot be used, if it cannot.
        offset: where its line begins in the file (JSON lines only).
        num_bytes: of its line (JSON lines only).
    """

    number: int
    values: dict[str, object] = field(default_factory=dict)
    problem: str | None = None
    offset: int = 0
    num_bytes: int = 0


def csv_rows(stream: IO[bytes]) -> Iterator[TextRow]:
    """Yield the rows below the line with the columns' names.

    Commas, semicolons and tabs are understood as separators: the one that the first line has most
    of. Bytes that are not UTF-8 stay in the text as they came.
    """
    with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _csv_rows(text)


def _csv_rows(text: IO[str]) -> Iterator[TextRow]:
    first = text.readline()
    separator = max(_SEPARATORS, key=first.count)
    names = next(csv.reader([first], delimiter=separator), [])
    rows = csv.reader(text, delimiter=separator)
    number = 0
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as err:
            yield TextRow(number, problem=f"the line cannot be read: {err}")
            number += 1
            continue
        if cells is None:
            return
        if not cells:  # an empty line
            continue
        if len(cells) != len(names):
            problem = f"the line has {len(cells)} cells where the first line has {len(names)}"
            yield TextRow(number, problem=problem)
        else:
            values = {name: cell or None for name, cell in zip(names, cells, strict=True)}
            yield TextRow(number, dict(values))
        number += 1


def json_rows(stream: IO[bytes]) -> Iterator[TextRow]:
    """Yield the objects that stand one on each line."""
    offset = number = 0
    for line in stream:
        if line.strip():
            yield json_row(number, line, offset)
            number += 1
        offset += len(line)


def json_row(number: int, line: bytes, offset: int = 0) -> TextRow:
    """Read one line."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as err:
        return TextRow(number, problem=f"the line is no JSON: {err}")
    if not isinstance(values, dict):
        return TextRow(number, problem="the line is no JSON object")
    return TextRow(number, values, offset=offset, num_bytes=len(line))


def number_in(cell: object) -> MetadataValue:
    """Return the number that a CSV cell spells, or else its text. "007" is a text."""
    if cell is None:
        return None
    text = str(cell)
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
