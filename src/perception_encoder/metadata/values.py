"""Turn what tags hold into values: texts without rubbish, numbers within a range, times that exist.

Every function returns None for what cannot be right, and raises nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from perception_encoder.metadata.photo import TakenTime

MAX_BLOCK_BYTES: Final = 2**20
"""The most bytes of one kind of metadata in a file; more are not read."""
MAX_CAPTION: Final = 2_000
MAX_TEXT: Final = 300
_MAX_KEYWORDS: Final = 1_000

_FIRST_YEAR: Final = 1826  # of the oldest photograph that there is
_LAST_YEAR: Final = 2100
# The start of the clock of computers: what is written where the time is not known.
_ZERO_TIME: Final = datetime(1970, 1, 1)
_MAX_OFFSET: Final = 14 * 60
_TIME: Final = re.compile(
    r"\s*(\d{4})[-:./](\d{1,2})[-:./](\d{1,2})"
    r"(?:[T ]\s*(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:[.,](\d+))?)?)?"
    r"\s*(Z|[-+]\d{1,2}:?\d{2})?\s*",
    re.ASCII,
)
_OFFSET: Final = re.compile(r"\s*(?:(Z)|([-+])(\d{1,2}):?(\d{2}))\s*", re.ASCII)
_DIGITS: Final = re.compile(r"\d{1,9}", re.ASCII)
# Control characters, and those that turn the direction of the text around them.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")
_NOT_TEXT: Final = re.compile("[\ud800-\udfff\ufffd]")
_COMPANY: Final = re.compile(
    r"[ ,]+(?:corporation|corp|company|co|ltd|inc|ag|gmbh|imaging|optical|camera|technologies|"
    r"techwin|electronics|electric)\b[., ]*$",
    re.IGNORECASE,
)
# What cameras write as the description of every photo: their kind, a path, settings as JSON.
_CAMERA_CAPTION: Final = re.compile(
    r"[A-Z ]*DIGITAL CAMERA|SONY DSC|SAMSUNG CAMERA PICTURES|hdrpl|cof|dav|sdr|DCIM\\.*|\{.*"
)
_NUMBER: Final = re.compile(r"([-+]?\d{1,15}(?:\.\d{1,20})?)(?:/(\d{1,15}))?", re.ASCII)


def clean_text(text: str | None, max_length: int = MAX_TEXT) -> str | None:
    """Return a text in one line, without control characters; None where nothing can be read.

    Args:
        text: as it was decoded.
        max_length: in characters; the rest is cut off.
    """
    if text is None:
        return None
    text = text[: 4 * max_length]  # the rest would be cut anyway
    if not (text.isascii() and text.isprintable()):
        text = _CONTROL.sub(" ", text)
    text = " ".join(text.split())[:max_length].strip()
    if not any(map(str.isalnum, text)) or _NOT_TEXT.search(text):
        return None
    return text


def clean_caption(text: str | None) -> str | None:
    """Clean a description as `clean_text` does; None for those that cameras write by themselves."""
    caption = clean_text(text, MAX_CAPTION)
    return None if caption is None or _CAMERA_CAPTION.fullmatch(caption) else caption


def decode_text(content: bytes) -> str | None:
    """Decode bytes whose encoding is not said: UTF-8, else the one of western Windows."""
    content = content.partition(b"\0")[0][: 4 * 4 * MAX_CAPTION]
    for encoding in ("utf-8", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def join_keywords(keywords: Iterable[str]) -> str | None:
    """Return keywords as one text, each once, as many as are within the length limit."""
    joined = ""
    seen = set[str]()
    for number, text in enumerate(keywords):
        if number >= _MAX_KEYWORDS:
            break
        for part in text[: 4 * MAX_CAPTION].split(";"):
            keyword = clean_text(part)
            if keyword is None or keyword in seen:
                continue
            seen.add(keyword)
            longer = f"{joined}; {keyword}" if joined else keyword
            if len(longer) > MAX_CAPTION:
                return joined
            joined = longer
    return joined or None


def join_camera(make: str | None, model: str | None) -> str | None:
    """Return maker and model, without the form of the company and without the maker said twice."""
    make, model = clean_text(make), clean_text(model)
    while make and (shorter := _COMPANY.sub("", make)) != make:
        make = shorter
    if not make or not model:
        return model or make
    first = model.split()[0].casefold()
    if first in make.casefold().split() or model.casefold().startswith(make.casefold()):
        return model
    return clean_text(f"{make} {model}")


def bounded_float(
    value: float | None, low: float, high: float, *, with_low: bool = True
) -> float | None:
    """Return a number if it is within a range.

    Args:
        value: may be NaN or infinite.
        low: of the range.
        high: of the range, which belongs to it.
        with_low: whether `low` belongs to the range too.
    """
    if value is None or not math.isfinite(value) or not low <= value <= high:
        return None
    return float(value) if with_low or value > low else None


def bounded_int(value: float | None, low: int, high: int) -> int | None:
    """Return a whole number if it is within a range."""
    number = bounded_float(value, low, high)
    return None if number is None or number != int(number) else int(number)


def make_rating(value: float | None) -> int | None:
    """Return a rating from -1 to 5."""
    return bounded_int(value, -1, 5)


def make_place(
    latitude: float | None, longitude: float | None
) -> tuple[float | None, float | None]:
    """Return coordinates, both or none; zeros are what is written where the place is not known."""
    latitude = bounded_float(latitude, -90, 90)
    longitude = bounded_float(longitude, -180, 180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None, None
    return round(latitude, 7), round(longitude, 7)  # 7 digits are a centimeter


def make_altitude(value: float | None) -> float | None:
    """Return meters above sea level: from the deepest sea to the end of the air."""
    return bounded_float(value, -11_000, 100_000)


def parse_number(text: str | None) -> float | None:
    """Parse a decimal number or a fraction such as "1/250"."""
    found = None if text is None else _NUMBER.fullmatch(text[:64].strip())
    if found is None:
        return None
    below = int(found[2]) if found[2] else 1
    return float(found[1]) / below if below else None


def parse_taken(
    text: str | None, *, subseconds: str | None = None, offset: str | None = None
) -> TakenTime | None:
    """Parse the time of EXIF ("2023:05:04 10:30:00") or ISO 8601, with or without an offset.

    A year or month alone is no time: the day would be made up.

    Args:
        text: of the tag.
        subseconds: the digits after the point, where another tag has them.
        offset: such as "+02:00", where another tag has it.
    """
    found = None if text is None else _TIME.fullmatch(text.strip("\0 ")[:64])
    if found is None:
        return None
    if found[7]:
        subseconds = found[7]
    digits = _DIGITS.match((subseconds or "").strip("\0 "))
    microseconds = int(digits[0].ljust(6, "0")[:3]) * 1000 if digits else 0
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    try:
        taken_at = datetime(year, month, day, hour, minute, second, microseconds)
    except ValueError:
        return None
    return check_taken(taken_at, parse_offset(found[8] or offset))


def check_taken(taken_at: datetime, offset: int | None) -> TakenTime | None:
    """Return a time if a photo may have been taken then."""
    if not _FIRST_YEAR <= taken_at.year <= _LAST_YEAR or taken_at == _ZERO_TIME:
        return None
    return TakenTime(taken_at, offset)


def taken_from_timestamp(seconds: float | None) -> TakenTime | None:
    """Return the time of so many seconds since 1970 in UTC, with an offset of 0."""
    seconds = bounded_float(seconds, -(2.0**33), 2.0**33)
    if seconds is None:
        return None
    return check_taken(_ZERO_TIME + timedelta(seconds=seconds), 0)


def parse_offset(text: str | None) -> int | None:
    """Return the minutes of an offset such as "+02:00", "-0330" or "Z"."""
    found = None if text is None else _OFFSET.fullmatch(text.strip("\0 ")[:16])
    if found is None:
        return None
    if found[1]:
        return 0
    hours, minutes = int(found[3]), int(found[4])
    if minutes > 59 or hours * 60 + minutes > _MAX_OFFSET:
        return None
    return (hours * 60 + minutes) * (-1 if found[2] == "-" else 1)
