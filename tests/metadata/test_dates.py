"""What people type as a date means a period, or is refused with what to write instead."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import QueryError
from perception_encoder.metadata.dates import parse_since, parse_until

NOW = datetime(2026, 11, 29, 8, 15, 30)  # a Sunday
MOMENTS = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31))


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2023", "2023-01-01", "2024-01-01"),
        ("2023-05", "2023-05-01", "2023-06-01"),
        ("2023-12", "2023-12-01", "2024-01-01"),
        ("2023-05-04", "2023-05-04", "2023-05-05"),
        ("2023:05:04", "2023-05-04", "2023-05-05"),
        ("2023/5/4", "2023-05-04", "2023-05-05"),
        (" 4.5.2023 ", "2023-05-04", "2023-05-05"),
        ("May 2023", "2023-05-01", "2023-06-01"),
        ("sept 2023", "2023-09-01", "2023-10-01"),
        ("4 May 2023", "2023-05-04", "2023-05-05"),
        ("4th of May, 2023", "2023-05-04", "2023-05-05"),
        ("May 4, 2023", "2023-05-04", "2023-05-05"),
        ("may", "2026-05-01", "2026-06-01"),
        ("DECEMBER", "2025-12-01", "2026-01-01"),
        ("24 dec", "2025-12-24", "2025-12-25"),
        ("29 february", "2024-02-29", "2024-03-01"),
        ("today", "2026-11-29", "2026-11-30"),
        ("Yesterday", "2026-11-28", "2026-11-29"),
        ("friday", "2026-11-27", "2026-11-28"),
        ("sun", "2026-11-29", "2026-11-30"),
        ("last sunday", "2026-11-22", "2026-11-23"),
        ("this week", "2026-11-23", "2026-11-30"),
        ("last week", "2026-11-16", "2026-11-23"),
        ("this month", "2026-11-01", "2026-12-01"),
        ("last month", "2026-10-01", "2026-11-01"),
        ("this year", "2026-01-01", "2027-01-01"),
        ("last year", "2025-01-01", "2026-01-01"),
        ("1 day ago", "2026-11-28", "2026-11-29"),
        ("2 weeks ago", "2026-11-15", "2026-11-16"),
        ("a month  ago", "2026-10-29", "2026-10-30"),
        ("9 months ago", "2026-02-28", "2026-03-01"),
        ("two years ago", "2024-11-29", "2024-11-30"),
        ("2 hours ago", "2026-11-29T06:15:30", "2026-11-29T06:15:30"),
        ("last 3 days", "2026-11-26", "2026-11-29T08:15:30"),
        ("now", "2026-11-29T08:15:30", "2026-11-29T08:15:30"),
        ("2023-05-04 10:30", "2023-05-04T10:30", "2023-05-04T10:31"),
        ("2023-05-04T10:30:01", "2023-05-04T10:30:01", "2023-05-04T10:30:02"),
        ("2023-05-04T10:30:01.250", "2023-05-04T10:30:01", "2023-05-04T10:30:02"),
        ("yesterday at 9:05", "2026-11-28T09:05", "2026-11-28T09:06"),
        ("9999", "9999-01-01", "9999-12-31T23:59:59.999999"),
    ],
)
def test_a_text_means_a_period(text: str, start: str, end: str) -> None:
    assert parse_since(text, NOW) == datetime.fromisoformat(start)
    assert parse_until(text, NOW) == datetime.fromisoformat(end)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("05/04/2023", "read in two ways; write year, month and day: 2023-05-04"),
        ("5-4-23", "read in two ways"),
        ("04.05.23", "read in two ways"),
        ("2023-05-04T10:30Z", "without a time zone"),
        ("2023-05-04 10:30+02:00", "without a time zone"),
        ("2023-02-30", "no such date"),
        ("2023-13", "no such date"),
        ("0000", "no such date"),
        ("30 feb", "no such date"),
        ("yesterday 25:00", "no such date"),
        ("99999 years ago", "no such date"),
        ("999999 days ago", "no such date"),
        ("", "'2 weeks ago'"),
        ("soon", "'2 weeks ago'"),
        ("ma 2023", "'2 weeks ago'"),
        ("10:30", "'2 weeks ago'"),
        ("2023-05 10:30", "'2 weeks ago'"),
        ("٢٠٢٣", "'2 weeks ago'"),
        ("x" * 100_000, "xxx…'"),
    ],
)
def test_anything_else_is_refused_with_what_to_write(text: str, reason: str) -> None:
    for parse in (parse_since, parse_until):
        with pytest.raises(QueryError) as refused:
            parse(text, NOW)
        assert reason in str(refused.value)
        assert len(str(refused.value)) < 400


WORDS = st.sampled_from(
    [
        "a", "one", "2", "12", "31", "2023", "-05", "-29", "/", ".", ":", "10:30", "t", "z", "may",
        "feb", "friday", "last", "this", "week", "months", "year", "hours", "ago", "today", "at",
        "of", "th", ",", "+02:00", "now", "99999",
    ]
)  # fmt: skip
TEXTS = (
    st.text(max_size=30)
    | st.lists(WORDS, max_size=6).map(" ".join)
    | st.lists(WORDS, max_size=6).map("".join)
)


@given(TEXTS, MOMENTS)
def test_any_text_means_a_period_or_is_refused(text: str, now: datetime) -> None:
    try:
        start, end = parse_since(text, now), parse_until(text, now)
    except QueryError:
        return
    assert start <= end


@given(MOMENTS)
def test_dates_as_iso_8601_writes_them_are_understood(moment: datetime) -> None:
    day = datetime(moment.year, moment.month, moment.day)
    assert parse_since(f"{day:%Y-%m-%d}".zfill(10), NOW) == day
    second = moment.replace(microsecond=0)
    assert parse_since(second.isoformat(), NOW) == second
    assert parse_until(second.isoformat(), NOW) - second <= timedelta(seconds=1)
