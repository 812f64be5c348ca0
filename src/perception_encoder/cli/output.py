"""Writes results to stdout and talk to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes one each time


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
    """Write aligned columns; numbers to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        padded = [
            cell.rjust(width) if _is_number(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        write_line("  ".join(padded).rstrip())


def short(value: float | None) -> str:
    """Three figures, as a person reads them; a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _is_number(text: str) -> bool:
    return text[:1].isdigit() and text.replace(".", "").replace(",", "").isdigit()
