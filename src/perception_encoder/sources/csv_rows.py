"""Rows of CSV files.

A record that cannot be read costs only its first line: reading continues with the next one. So a
quote that is never closed is reported with its line, and the rows after it are kept. `pyarrow.csv`
swallows them, and the size limit of the `csv` module belongs to the whole process.
"""

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
    detect_encoding,
    read_lines,
)

_SEPARATORS: Final = ",;\t"
_QUOTED: Final = re.compile(r'"[^"]*"')
_LONE_CR: Final = re.compile(r"(?<=\r)(?!\n)")
_NEVER_CLOSED: Final = "a quote is opened and never closed"


class CsvHeader(NamedTuple):
    """What is needed to read one row of a file."""

    names: list[str]
    separator: str
    encoding: str


class CsvFile:
    """A CSV file, read once from its beginning.

    The separator is a comma, semicolon or tab: the most frequent one in the first line, or a tab in
    a .tsv file. Bytes that are not UTF-8 stay in the text as surrogates.

    Args:
        stream: a seekable file.
        is_tsv: whether the file's name ends with `.tsv`.

    Raises:
        SourceError: the first line cannot be read, or has a column twice.
    """

    def __init__(self, stream: IO[bytes], *, is_tsv: bool) -> None:
        encoding = detect_encoding(stream)
        self._lines = _iter_lines(stream, encoding)
        self._again = deque[_Line]()  # lines that a failed record has taken
        self._separator = _find_separator(self._peek(), is_tsv=is_tsv)
        self._records = self._iter_records()
        first = next(self._records, None)
        if first is not None and first.error is not None:
            raise SourceError(f"the column names cannot be read: {first.error}")
        names = _column_names([] if first is None else first.cells)
        self.header = CsvHeader(names, self._separator, encoding)

    def rows(self) -> Iterator[TextRow]:
        """Yield the rows below the column names."""
        for number, record in enumerate(self._records):
            yield _make_row(self.header, number, record)

    def _peek(self) -> str:
        """Return the first line that is not blank, without consuming it."""
        for line in self._lines:
            self._again.append(line)
            if line.text is None or line.text.strip():
                return line.text or ""
        return ""

    def _iter_records(self) -> Iterator["_Record"]:
        while (line := self._next_line()) is not None:
            taken = [line]
            try:
                cells = _read_cells(self._texts(taken), self._separator)
            except _RecordError as err:
                self._again.extendleft(reversed(taken[1:]))
                error = f"{err} (line {line.number:,})"
                yield _Record([], error, line.offset, line.num_bytes, line.number)
                continue
            if cells:  # a blank line has none
                num_bytes = sum(one.num_bytes for one in taken)
                yield _Record(cells, None, line.offset, num_bytes, line.number)

    def _texts(self, taken: "list[_Line]") -> Iterator[str]:
        """Yield the first line's text, and then the next lines, which are added to `taken`."""
        first = taken[0]
        if first.text is None:
            raise _RecordError(first.error)
        yield first.text
        num_bytes = first.num_bytes
        while (line := self._next_line()) is not None:
            taken.append(line)
            num_bytes += line.num_bytes
            if line.text is None or num_bytes > MAX_ROW_BYTES:
                raise _RecordError(_NEVER_CLOSED)
            yield line.text

    def _next_line(self) -> "_Line | None":
        return self._again.popleft() if self._again else next(self._lines, None)


def read_csv_row(header: CsvHeader, number: int, data: bytes) -> TextRow:
    """Read one row again from its bytes."""
    lines = iter(_split_lines(data.decode(header.encoding, _errors_of(header.encoding))))
    try:
        cells = _read_cells(lines, header.separator)
    except _RecordError as err:
        return TextRow(number, error=str(err))
    return _make_row(header, number, _Record(cells, None, 0, len(data), 0))


class _Line(NamedTuple):
    """A line's text, or why it cannot be read; its place in the file; its number from 1."""

    text: str | None
    error: str | None
    offset: int
    num_bytes: int
    number: int


class _Record(NamedTuple):
    """The cells of a record, or why it cannot be read; its place; the number of its first line."""

    cells: list[str]
    error: str | None
    offset: int
    num_bytes: int
    line: int


class _RecordError(Exception):
    """A record cannot be read."""


def _read_cells(lines: Iterator[str], separator: str) -> list[str]:
    """Split a record into its cells; quotes make it continue on the next lines."""
    line = next(lines, "")
    if '"' not in line:  # nearly all
        line = line.rstrip("\r\n")
        return line.split(separator) if line else []
    cells, start = list[str](), 0
    while True:
        if line.startswith('"', start):
            cell, line, start = _read_quoted(lines, line, start + 1, separator)
        else:
            end = line.find(separator, start)
            end = len(line.rstrip("\r\n")) if end < 0 else end
            cell, start = line[start:end], end
        cells.append(cell)
        if not line.startswith(separator, start):
            return cells
        start += 1


def _read_quoted(
    lines: Iterator[str], line: str, start: int, separator: str
) -> tuple[str, str, int]:
    """Return a cell that began before `start`, the line that it ends on, and its end there."""
    parts = list[str]()
    while True:
        end = line.find('"', start)
        if end < 0:
            parts.append(line[start:])
            following = next(lines, None)
            if following is None:
                raise _RecordError(_NEVER_CLOSED)
            line, start = following, 0
            continue
        parts.append(line[start:end])
        start = end + 1
        if not line.startswith('"', start):
            break
        parts.append('"')
        start += 1
    if line[start : start + 1] not in ("", separator, "\r", "\n"):
        raise _RecordError(f"the line cannot be read: {separator!r} expected after '\"'")
    return "".join(parts), line, start


def _iter_lines(stream: IO[bytes], encoding: str) -> Iterator[_Line]:
    number = 0
    for line in read_lines(stream, encoding):
        number += 1
        if line.data is None:
            yield _Line(None, TOO_LARGE, line.offset, line.num_bytes, number)
            continue
        try:
            text = line.data.decode(encoding, _errors_of(encoding))
        except UnicodeDecodeError as err:
            error = f"the line is not valid UTF-16: {err.reason}"
            yield _Line(None, error, line.offset, line.num_bytes, number)
            continue
        if "\r" not in text.rstrip("\r\n"):
            yield _Line(text, None, line.offset, line.num_bytes, number)
            continue
        offset = line.offset + line.num_bytes - len(line.data)
        for is_later, part in enumerate(_split_lines(text)):
            number += is_later > 0
            size = len(part.encode(encoding, _errors_of(encoding)))
            yield _Line(part, None, offset, size, number)
            offset += size


def _split_lines(text: str) -> list[str]:
    """Split a line at CR, which ended lines on old Macs."""
    return [part for part in _LONE_CR.split(text) if part]


def _errors_of(encoding: str) -> str:
    return "surrogateescape" if encoding == "utf-8" else "strict"


def _find_separator(first: str, *, is_tsv: bool) -> str:
    unquoted = _QUOTED.sub("", first)
    if is_tsv and "\t" in unquoted:
        return "\t"
    return max(_SEPARATORS, key=unquoted.count)


def _column_names(cells: list[str]) -> list[str]:
    """Return the column names; all empty ones but the first are numbered.

    Raises:
        SourceError: a name is there twice.
    """
    names = [
        name or (f"column {number}" if "" in cells[: number - 1] else "")
        for number, name in enumerate(cells, start=1)
    ]
    check_unique(names)
    return names


def _make_row(header: CsvHeader, number: int, record: _Record) -> TextRow:
    if record.error is not None:
        return TextRow(number, error=record.error)
    if len(record.cells) != len(header.names):
        error = (
            f"the line has {len(record.cells)} cells where the first line has "
            f"{len(header.names)} (line {record.line:,})"
        )
        return TextRow(number, error=error)
    values: dict[str, object] = {
        name: cell or None for name, cell in zip(header.names, record.cells, strict=True)
    }
    return TextRow(number, values, offset=record.offset, num_bytes=record.num_bytes)
