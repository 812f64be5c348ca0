"""Understand the dates that people type for `--since` and `--until`.

Every text means a period: "2023" a year, "2023-05" a month, "yesterday" a day, "10:30" of a day a
minute. `--since` counts from its start, `--until` to its end, so that both include what is named.
Times are wall-clock times at the camera, as `taken_at` is. What could mean two things, such as
05/04/2023, is refused: general parsers of dates guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import MAXYEAR, datetime, timedelta
from typing import Final, TypeAlias

from perception_encoder.errors import QueryError

_Period: TypeAlias = tuple[datetime, datetime]

_MAX_LENGTH: Final = 100
_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_WEEKDAYS: Final = (
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
)  # fmt: skip
_NUMBERS: Final = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600}
_MAX_COUNT: Final = 100_000

# 2023, 2023-05, 2023-05-04; the separator is the same twice.
_YEAR_FIRST: Final = re.compile(r"(\d{4})(?:([-:./])(\d{1,2})(?:\2(\d{1,2}))?)?")
_DAY_FIRST: Final = re.compile(r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})")
_AMBIGUOUS: Final = re.compile(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}|\d{1,2}\.\d{1,2}\.\d{2}")
_CLOCK: Final = re.compile(r"(.+?)(?:[t ,]\s*|\s+at\s+)(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?")
_ZONE: Final = re.compile(r".*\d(?:\s*z|\s*utc|\s*gmt|[-+]\d{2}:?\d{2})", re.DOTALL)
_MONTH_YEAR: Final = re.compile(r"([a-z]{3,9})\.?,?\s*(\d{4})?")
_DAY_MONTH: Final = re.compile(
    r"(\d{1,2})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?([a-z]{3,9})\.?,?\s*(\d{4})?"
)
_MONTH_DAY: Final = re.compile(r"([a-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?(?:,?\s+(\d{4}))?")
_AGO: Final = re.compile(r"(\d{1,6}|[a-z]{1,6})\s+(second|minute|hour|day|week|month|year)s?\s+ago")
_LAST_COUNT: Final = re.compile(
    r"(?:the\s+)?(?:last|past)\s+(\d{1,6}|[a-z]{1,6})\s+(second|minute|hour|day|week|month|year)s?"
)
_RELATIVE: Final = re.compile(r"(this|last)\s+([a-z]{3,9})")


def parse_since(text: str, now: datetime) -> datetime:
    """Return the start of the period that a text means, to compare with `>=`.

    Args:
        text: a year, month, day or time ("2023", "2023-05", "May 2023", "2023-05-04 10:30"), or a
            period from now: "yesterday", "last month", "friday", "2 weeks ago". English, in any
            case. A month or day without a year is the latest that has begun. The day of "2 weeks
            ago" is meant as a whole, the moment of "2 hours ago".
        now: local time without a time zone.

    Raises:
        QueryError: it means nothing that is known, a date that does not exist, or two things.
    """
    return _parse(text, now)[0]


def parse_until(text: str, now: datetime) -> datetime:
    """Return the end of the period that a text means, to compare with `<`.

    Args:
        text: as for `parse_since`.
        now: local time without a time zone.

    Raises:
        QueryError: as for `parse_since`.
    """
    return _parse(text, now)[1]


def _parse(text: str, now: datetime) -> _Period:
    plain = " ".join(text[: _MAX_LENGTH + 1].lower().split())
    if len(plain) <= _MAX_LENGTH and plain.isascii():
        _refuse_ambiguous(text, plain)
        for parse in _FORMS:
            try:
                period = parse(plain, now)
            except (ValueError, OverflowError) as err:
                raise QueryError(f"{text!r}: there is no such date ({err})") from err
            if period is not None:
                return period
    shown = text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + "…"
    raise QueryError(
        f"{shown!r} is no date that is understood; write it as 2023, 2023-05, 2023-05-04, "
        "2023-05-04T10:30, 'May 2023', yesterday, 'last month' or '2 weeks ago'"
    )


def _refuse_ambiguous(text: str, plain: str) -> None:
    if _AMBIGUOUS.fullmatch(plain):
        raise QueryError(f"{text!r} can be read in two ways; write year, month and day: 2023-05-04")
    if ":" in plain and _ZONE.fullmatch(plain):
        raise QueryError(
            f"{text!r}: times are those of the camera's clock, without a time zone; leave it out"
        )


def _parse_year_first(text: str, now: datetime) -> _Period | None:
    del now
    found = _YEAR_FIRST.fullmatch(text)
    if found is None:
        return None
    year, month, day = int(found[1]), found[3], found[4]
    if month is None:
        return _years(datetime(year, 1, 1))
    if day is None:
        return _months(datetime(year, int(month), 1))
    return _days(datetime(year, int(month), int(day)))


def _parse_day_first(text: str, now: datetime) -> _Period | None:
    """Parse 4.5.2023, which wherever it is written has the day first."""
    del now
    found = _DAY_FIRST.fullmatch(text)
    return _days(datetime(int(found[3]), int(found[2]), int(found[1]))) if found else None


def _parse_names(text: str, now: datetime) -> _Period | None:
    """Parse "May", "May 2023", "4 May 2023" and "May 4, 2023"."""
    if (found := _MONTH_YEAR.fullmatch(text)) and (month := _month(found[1])):
        if found[2] is None:
            return _months(_latest(now, lambda year: datetime(year, month, 1)))
        return _months(datetime(int(found[2]), month, 1))
    for pattern, month_group, day_group in ((_DAY_MONTH, 2, 1), (_MONTH_DAY, 1, 2)):
        found = pattern.fullmatch(text)
        if found is None or not (month := _month(found[month_group])):
            continue
        day = int(found[day_group])
        if found[3] is None:
            return _days(_latest(now, lambda year: datetime(year, month, day)))  # noqa: B023
        return _days(datetime(int(found[3]), month, day))
    return None


def _parse_relative(text: str, now: datetime) -> _Period | None:
    """Parse "today", "last month", "this year", "friday" and "last friday"."""
    today = _midnight(now)
    if text == "now":
        return now, now
    if text in ("today", "yesterday"):
        return _days(today - timedelta(days=text == "yesterday"))
    found = _RELATIVE.fullmatch(text)
    word, unit = (found[1], found[2]) if found else ("", text)
    if unit in _WEEKDAYS or unit in (name[:3] for name in _WEEKDAYS):
        wanted = next(i for i, name in enumerate(_WEEKDAYS) if name.startswith(unit))
        days = (today.weekday() - wanted) % 7
        return _days(today - timedelta(days=7 if word == "last" and days == 0 else days))
    back = int(word == "last")
    if not word:
        return None
    if unit == "week":  # from Monday on
        start = today - timedelta(days=today.weekday() + 7 * back)
        return start, start + timedelta(days=7)
    if unit == "month":
        return _months(_months_before(today.replace(day=1), back))
    if unit == "year":
        return _years(datetime(today.year - back, 1, 1))
    return None


def _parse_ago(text: str, now: datetime) -> _Period | None:
    """Parse "2 weeks ago", and "last 2 weeks", which ends now."""
    found = _AGO.fullmatch(text)
    if found:
        return _count_back(found[1], found[2], now)
    found = _LAST_COUNT.fullmatch(text)
    period = _count_back(found[1], found[2], now) if found else None
    return None if period is None else (period[0], now)


def _parse_clock(text: str, now: datetime) -> _Period | None:
    """Parse a day, then hours and minutes, with seconds or without."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        return None
    for parse in _DAY_FORMS:
        period = parse(found[1], now)
        if period is not None and period[1] - period[0] == timedelta(days=1):
            start = period[0].replace(
                hour=int(found[2]), minute=int(found[3]), second=int(found[4] or 0)
            )
            return start, start + timedelta(seconds=1 if found[4] else 60)
    return None


_DAY_FORMS: Final[tuple[Callable[[str, datetime], _Period | None], ...]] = (
    _parse_year_first, _parse_day_first, _parse_names, _parse_relative, _parse_ago,
)  # fmt: skip
_FORMS: Final = (*_DAY_FORMS, _parse_clock)


def _count_back(count: str, unit: str, now: datetime) -> _Period | None:
    number = int(count) if count.isdigit() else _NUMBERS.get(count)
    if number is None:
        return None
    if number > _MAX_COUNT:
        raise ValueError("too long ago")
    if unit in _SECONDS:
        moment = now - timedelta(seconds=number * _SECONDS[unit])
        return moment, moment
    today = _midnight(now)
    if unit in ("day", "week"):
        return _days(today - timedelta(days=number * (7 if unit == "week" else 1)))
    return _days(_months_before(today, number * (12 if unit == "year" else 1)))


def _month(name: str) -> int:
    """Return the number of a month by its name or an abbreviation of it, or 0."""
    matches = [i for i, month in enumerate(_MONTHS, start=1) if month.startswith(name)]
    if name == "sept":
        return 9
    return matches[0] if len(matches) == 1 else 0


def _latest(now: datetime, in_year: Callable[[int], datetime]) -> datetime:
    """Return a date of this year, or where it is to come of the last year that has it."""
    for year in range(now.year, now.year - 9, -1):
        try:
            start = in_year(year)
        except ValueError:  # February 29
            if year > now.year - 8:
                continue
            raise
        if start <= now:
            return start
    return in_year(now.year - 1)


def _months_before(day: datetime, months: int) -> datetime:
    """Return the same day of an earlier month, or its last day where that is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    first = datetime(year, month + 1, 1)
    last = _months(first)[1] - timedelta(days=1)
    return first.replace(day=min(day.day, last.day))


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _days(start: datetime) -> _Period:
    return start, _end(lambda: start + timedelta(days=1))


def _months(start: datetime) -> _Period:
    year, month = divmod(start.year * 12 + start.month, 12)
    return start, _end(lambda: datetime(year, month + 1, 1))


def _years(start: datetime) -> _Period:
    return start, _end(lambda: datetime(start.year + 1, 1, 1))


def _end(make: Callable[[], datetime]) -> datetime:
    """Return the end of a period; of the last one that there is, the last moment."""
    try:
        return make()
    except (ValueError, OverflowError):
        return datetime(MAXYEAR, 12, 31, 23, 59, 59, 999_999)
