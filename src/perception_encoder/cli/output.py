"""Writes results to stdout and talk to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes one each time
_NOTHING: Final = ("", "-")  # cells of a column of numbers where there is none


def say(message: str) -> None:
    """Tell the person something; never part of the data."""
    sys.stderr.write(message + "\n")


def write_json(record: dict[str, Any]) -> None:
    """Write one JSON object as one line."""
    sys.stdout.write(_encode(record) + "\n")


def write_line(text: str, *, end: str = "\n") -> None:
    """Write one line of data."""
    sys.stdout.write(text + end)


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write aligned columns; those that hold nothing but numbers to the right."""
    columns = [[title, *(row[place] for row in rows)] for place, title in enumerate(header)]
    lines = zip(*(_aligned(column) for column in columns), strict=True)
    for line in lines:
        write_line("  ".join(line).rstrip())


def short(value: float | None) -> str:
    """Three figures, as a person reads them; a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def pictures(count: int) -> str:
    """Say how many."""
    return "1 picture" if count == 1 else f"{count:,} pictures"


def _aligned(column: Sequence[str]) -> list[str]:
    """Make a column's cells, the first of which is its title, equally wide."""
    width = max(map(len, column))
    told = [cell for cell in column[1:] if cell not in _NOTHING]
    if told and all(map(_is_number, told)):
        return [cell.rjust(width) for cell in column]
    return [cell.ljust(width) for cell in column]


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(",", "").replace(".", "", 1)
    return digits.isdecimal()
