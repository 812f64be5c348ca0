"""Rows as lines of JSON: each a flat object, without what is not known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from perception_encoder.errors import ExchangeError
from perception_encoder.index.fit import is_unicode
from perception_encoder.index.rows import MetadataValue, Row
from perception_encoder.index.schema import FACTS, VECTOR, can_be_metadata

NAME_COLUMNS: Final = ("uri", "image_path", "url", "path")
"""What other programs call the place of a picture; the first that is there counts."""

_NO_METADATA: Final = ("id", VECTOR)
_WHOLE_NUMBERS: Final = ("offset", "width", "height", "bytes", "mtime")
_MOST_INT64: Final = 2**63 - 1
_MOST: Final = {"width": 2**31 - 1, "height": 2**31 - 1}


def row_line(row: Row) -> str:
    """Return a row as one line, with its end; metadata that JSON cannot hold is null."""
    record: dict[str, Any] = {"id": row.id}
    record |= {name: getattr(row, name) for name in FACTS if getattr(row, name) is not None}
    record |= {name: value if holds(value) else None for name, value in row.metadata.items()}
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def holds(value: MetadataValue) -> bool:
    """Whether JSON has a way to write the value: it has none for NaN and the infinities."""
    return not isinstance(value, float) or math.isfinite(value)


def read_row_lines(path: str, num_rows: int) -> Iterator[list[Row]]:
    """Yield the rows of a file, so many at a time.

    Raises:
        ExchangeError: a line is no object, or does not name a picture.
    """
    with open(path, "rb") as lines:
        numbered = enumerate(lines, start=1)
        while block := list(islice(numbered, num_rows)):
            yield [_row(line, f"{path}, line {number}") for number, line in block]


def count_lines(path: str) -> int:
    """Return the number of lines."""
    with open(path, "rb") as lines:
        return sum(1 for _ in lines)


def _row(line: bytes, where: str) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as err:  # also bytes that are not UTF-8
        raise ExchangeError(f"{where}: no JSON: {err}; each line holds one object") from err
    if not isinstance(record, dict):
        raise ExchangeError(f"{where}: a {type(record).__name__}; each line holds one object")
    name = _first(record, NAME_COLUMNS)
    if name is None:
        raise ExchangeError(f"{where}: no picture; one of {', '.join(NAME_COLUMNS)} has to name it")
    facts = {fact: record[fact] for fact in FACTS if fact != "uri" and record.get(fact) is not None}
    for fact, value in facts.items():
        _check_fact(fact, value, where)
    metadata = {
        key: value
        for key, value in record.items()
        if key not in _NO_METADATA
        and key not in FACTS
        and key != name
        and isinstance(value, str | int | float | bool)
        and can_be_metadata(key)
    }
    try:
        return Row(uri=str(record[name]), **facts, metadata=metadata)
    except ValueError as err:  # half of a pair, which JSON can write and no text can hold
        raise ExchangeError(f"{where}: {err}") from err


def _check_fact(fact: str, value: object, where: str) -> None:
    """Make sure that the table's column can hold it.

    Raises:
        ExchangeError: it cannot.
    """
    kind = int if fact in _WHOLE_NUMBERS else str
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ExchangeError(f"{where}: {fact} is {value!r}; it has to be of type {kind.__name__}")
    most = _MOST.get(fact, _MOST_INT64)
    if isinstance(value, int) and not -most <= value <= most:
        raise ExchangeError(f"{where}: {fact} is {str(value)[:40]}, beyond {most}")
    if isinstance(value, str) and not is_unicode(value):
        raise ExchangeError(f"{where}: {fact} is {value!a}, which is not valid Unicode")


def _first(record: dict[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if isinstance(record.get(name), str)), None)
