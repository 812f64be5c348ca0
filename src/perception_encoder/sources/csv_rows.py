"""Rows of CSV files, one after the other. Knows no images.

A record that cannot be read costs its first line only: what follows is read as if it began anew. So
a quote that is never closed is told, with its line, and swallows no rows.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

from perception_encoder.errors import SourceError
from perception_encoder.sources.columns import check_unique
from perception_encoder.sources.text_rows import (
    MAX_ROW_BYTES,
    TOO_LARGE,
    TextRow,
    encoding_at,
    read_lines,
)

_SEPARATORS: Final = ",;\t"
_QUOTED: Final = re.compile(r'"[^"]*"')
_LONE_CR: Final = re.compile(r"(?<=\r)(?!\n)")
_NEVER_CLOSED: Final = "a quote is opened and never closed"


class CsvHeader(NamedTuple):
    """What a file's first line says of the others."""

    names: list[str]
    separator: str
    encoding: str


class CsvFile:
    """A CSV file, read once from its beginning.

    Commas, semicolons and tabs are understood as separators: the one that the first line has most
    of; in a .tsv, tabs. Bytes that are not UTF-8 stay in the text as surrogates.

    Args:
        stream: can be sought in.
        is_tsv: whether its name ends so.

    Raises:
        SourceError: the first line cannot be read, or names a column twice.
    """

    def __init__(self, stream: IO[bytes], *, is_tsv: bool) -> None:
        # The limit of cells is the process's; a smaller one that somebody has set would be ours.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
        encoding = encoding_at(stream)
        self._records = _Records(stream, encoding, is_tsv=is_tsv)
        first = next(iter(self._records), None)
        if first is not None and first.problem is not None:
            raise SourceError(f"the columns' names cannot be read: {first.problem}")
        names = _checked([] if first is None else first.cells)
        self.header = CsvHeader(names, self._records.separator, encoding)

    def rows(self) -> Iterator[TextRow]:
        """Yield the rows below the line with the columns' names."""
        for number, record in enumerate(self._records):
            yield _row(self.header, number, record)


def csv_row(header: CsvHeader, number: int, data: bytes) -> TextRow:
    """Read one row again from its bytes."""
    text = data.decode(header.encoding, _errors_of(header.encoding))
    try:
        cells = next(csv.reader(_lines_of(text), delimiter=header.separator, strict=True), [])
    except csv.Error as err:
        return TextRow(number, problem=f"the line cannot be read: {err}")
    return _row(header, number, _Record(cells, None, 0, len(data), 0))


class _Record(NamedTuple):
    """Cells, or why there are none; where they are in the file, and their line from 1."""

    cells: list[str]
    problem: str | None
    offset: int
    num_bytes: int
    line: int


class _TextLine(NamedTuple):
    text: str | None
    problem: str | None
    offset: int
    num_bytes: int
    number: int


class _BadLineError(Exception):
    """A line that ends the record it would belong to."""


class _Records:
    """Iterates over the records of a file; blank lines are none."""

    def __init__(self, stream: IO[bytes], encoding: str, *, is_tsv: bool) -> None:
        self._lines = _text_lines(stream, encoding)
        self._again = deque[_TextLine]()
        self._consumed: list[_TextLine] = []
        self.separator = _separator(self._first_text(), is_tsv=is_tsv)

    def __iter__(self) -> Iterator[_Record]:
        while True:
            record = self._next()
            if record is None:
                return
            if record.cells or record.problem is not None:
                yield record

    def _first_text(self) -> str:
        for line in self._lines:
            self._again.append(line)
            if line.text is None or line.text.strip():
                return line.text or ""
        return ""

    def _next(self) -> _Record | None:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is None:
            return None
        if line.text is not None and (cells := self._cells_of(line.text)) is not None:
            return _Record(cells, None, line.offset, line.num_bytes, line.number)
        self._again.appendleft(line)
        return self._next_of_lines()

    def _cells_of(self, text: str) -> list[str] | None:
        """Return a record that is one line, as nearly all are; None if it needs a closer look."""
        num_quotes = text.count('"')
        if not num_quotes:
            text = text.rstrip("\r\n")
            return text.split(self.separator) if text else []
        if num_quotes % 2:
            return None
        try:
            return next(csv.reader((text,), delimiter=self.separator, strict=True), [])
        except csv.Error:
            return None

    def _next_of_lines(self) -> _Record | None:
        self._consumed = []
        problem, cells = None, None
        try:
            cells = next(csv.reader(self._feed(), delimiter=self.separator, strict=True), None)
        except csv.Error as err:
            is_open = str(err).startswith("unexpected end")
            problem = _NEVER_CLOSED if is_open else f"the line cannot be read: {err}"
        except _BadLineError as err:
            problem = str(err)
        if not self._consumed:
            return None
        if problem is not None:
            self._again.extendleft(reversed(self._consumed[1:]))
            del self._consumed[1:]
        first, size = self._consumed[0], sum(line.num_bytes for line in self._consumed)
        if problem is not None:
            problem = f"{problem} (line {first.number:,})"
        return _Record(cells or [], problem, first.offset, size, first.number)

    def _feed(self) -> Iterator[str]:
        """Yield the lines of one record, as far as they are asked for."""
        num_bytes = 0
        while (
            line := self._again.popleft() if self._again else next(self._lines, None)
        ) is not None:
            self._consumed.append(line)
            num_bytes += line.num_bytes
            if line.text is None or num_bytes > MAX_ROW_BYTES:
                is_first = len(self._consumed) == 1
                raise _BadLineError(str(line.problem) if is_first else _NEVER_CLOSED)
            yield line.text


def _text_lines(stream: IO[bytes], encoding: str) -> Iterator[_TextLine]:
    number = 0
    for line in read_lines(stream, encoding):
        number += 1
        if line.data is None:
            yield _TextLine(None, TOO_LARGE, line.offset, line.num_bytes, number)
            continue
        try:
            text = line.data.decode(encoding, _errors_of(encoding))
        except UnicodeDecodeError as err:
            problem = f"the line is not valid UTF-16: {err.reason}"
            yield _TextLine(None, problem, line.offset, line.num_bytes, number)
            continue
        if "\r" not in text.rstrip("\r\n"):
            yield _TextLine(text, None, line.offset, line.num_bytes, number)
            continue
        parts, end = _lines_of(text), line.offset + line.num_bytes
        offset = end - len(line.data)
        for place, part in enumerate(parts):
            size = len(part.encode(encoding, _errors_of(encoding)))
            yield _TextLine(part, None, offset, size, number)
            offset += size
            number += place + 1 < len(parts)


def _lines_of(text: str) -> list[str]:
    """Split a line where old files of Macs do, which have nothing but CR."""
    return [part for part in _LONE_CR.split(text) if part]


def _errors_of(encoding: str) -> str:
    return "surrogateescape" if encoding == "utf-8" else "strict"


def _separator(first: str, *, is_tsv: bool) -> str:
    bare = _QUOTED.sub("", first)
    if is_tsv and "\t" in bare:
        return "\t"
    return max(_SEPARATORS, key=bare.count)


def _checked(names: list[str]) -> list[str]:
    """Return the columns' names; of those that are empty, all but the first are numbered.

    Raises:
        SourceError: a name is there twice.
    """
    found = [
        name or (f"column {place}" if "" in names[: place - 1] else "")
        for place, name in enumerate(names, start=1)
    ]
    check_unique(found)
    return found


def _row(header: CsvHeader, number: int, record: _Record) -> TextRow:
    if record.problem is not None:
        return TextRow(number, problem=record.problem)
    if len(record.cells) != len(header.names):
        problem = (
            f"the line has {len(record.cells)} cells where the first line has "
            f"{len(header.names)} (line {record.line:,})"
        )
        return TextRow(number, problem=problem)
    values: dict[str, object] = {
        name: cell or None for name, cell in zip(header.names, record.cells, strict=True)
    }
    return TextRow(number, values, offset=record.offset, num_bytes=record.num_bytes)
