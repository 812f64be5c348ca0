"""Read IPTC (IIM 4.2), which is stored bare or in a resource of Photoshop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from perception_encoder.metadata.photo import PhotoMetadata, TakenTime
from perception_encoder.metadata.values import (
    clean_caption,
    clean_text,
    decode_text,
    join_keywords,
    parse_taken,
)

_IPTC_RESOURCE: Final = 0x0404
_MAX_RESOURCES: Final = 10_000
_MARKER: Final = 0x1C
_MAX_FIELDS: Final = 10_000
_LONG_FIELD: Final = 0x8000

_CHARSET: Final = (1, 90)
_UTF8: Final = b"\x1b%G"
_TITLE: Final = (2, 5)
_KEYWORDS: Final = (2, 25)
_DATE: Final = (2, 55)
_TIME: Final = (2, 60)
_HEADLINE: Final = (2, 105)
_CAPTION: Final = (2, 120)


def find_iptc(photoshop: bytes) -> bytes:
    """Return the IPTC data among the resources of Photoshop; empty where there is none.

    Args:
        photoshop: resources, each behind "8BIM", a number, a name and a length.
    """
    position = 0
    for _ in range(_MAX_RESOURCES):
        if not photoshop.startswith(b"8BIM", position) or position + 12 > len(photoshop):
            break
        number = int.from_bytes(photoshop[position + 4 : position + 6], "big")
        # The name and its length take an even number of bytes together, as does the content.
        position += 6 + (photoshop[position + 6] // 2 + 1) * 2
        size = int.from_bytes(photoshop[position : position + 4], "big")
        position += 4
        if number == _IPTC_RESOURCE:
            return photoshop[position : position + size]
        position += size + size % 2
    return b""


def read_iptc(data: bytes) -> PhotoMetadata:
    """Read the values of bare IPTC data."""
    fields: dict[tuple[int, int], list[bytes]] = {}
    for key, content in _iter_fields(data):
        fields.setdefault(key, []).append(content)
    is_utf8 = fields.get(_CHARSET, [b""])[0].startswith(_UTF8)
    texts = {
        key: [text for one in contents if (text := _decode(one, is_utf8)) is not None]
        for key, contents in fields.items()
        if key != _CHARSET
    }

    def first(key: tuple[int, int]) -> str | None:
        return next(iter(texts.get(key, ())), None)

    taken = _parse_time(first(_DATE), first(_TIME))
    return PhotoMetadata(
        taken_at=taken and taken.taken_at,
        taken_offset=taken and taken.taken_offset,
        title=clean_text(first(_TITLE)) or clean_text(first(_HEADLINE)),
        caption=clean_caption(first(_CAPTION)),
        keywords=join_keywords(texts.get(_KEYWORDS, ())),
    )


def _iter_fields(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield the number of record and field, and the content, of the fields that are read here."""
    known = (_CHARSET, _TITLE, _KEYWORDS, _DATE, _TIME, _HEADLINE, _CAPTION)
    position = 0
    for _ in range(_MAX_FIELDS):
        if position + 5 > len(data) or data[position] != _MARKER:
            return
        key = data[position + 1], data[position + 2]
        size = int.from_bytes(data[position + 3 : position + 5], "big")
        position += 5
        if size >= _LONG_FIELD:  # the length of the length
            start, position = position, position + min(size - _LONG_FIELD, 8)
            size = int.from_bytes(data[start:position], "big")
        if key in known:
            yield key, data[position : position + size]
        position += size


def _decode(content: bytes, is_utf8: bool) -> str | None:
    if not is_utf8:
        return decode_text(content)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _parse_time(date: str | None, time: str | None) -> TakenTime | None:
    """Parse a date such as "20230504" and a time such as "103000+0200"; midnight without one."""
    date = (date or "").strip("\0 ")
    if len(date) != 8 or not (date.isascii() and date.isdigit()):
        return None
    date = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    time = (time or "").strip("\0 ")
    if len(time) < 6 or not (time[:6].isascii() and time[:6].isdigit()):
        return parse_taken(date)
    return parse_taken(f"{date}T{time[:2]}:{time[2:4]}:{time[4:6]}", offset=time[6:])
