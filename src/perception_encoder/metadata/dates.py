"""Understand the dates that people type on a command line."""

from __future__ import annotations

from datetime import datetime

from perception_encoder.errors import QueryError


def parse_since(text: str, now: datetime) -> datetime:
    """Return the first moment of a period, to compare with `>=`.

    Args:
        text: such as "2023", "2023-05", "2023-05-04", "yesterday", "2 weeks ago".
        now: local time without a time zone.

    Raises:
        QueryError: it is no date that can be understood.
    """
    return _parse_period(text, now)[0]


def parse_until(text: str, now: datetime) -> datetime:
    """Return the first moment after a period, to compare with `<`.

    Args:
        text: as for `parse_since`.
        now: local time without a time zone.

    Raises:
        QueryError: it is no date that can be understood.
    """
    return _parse_period(text, now)[1]


def _parse_period(text: str, now: datetime) -> tuple[datetime, datetime]:
    del now
    try:
        start = datetime.strptime(text.strip(), "%Y")
    except ValueError:
        raise QueryError(f"{text!r}: not a date") from None
    return start, start.replace(year=start.year + 1)
