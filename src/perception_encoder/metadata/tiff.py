"""Read tags of TIFF files, and of EXIF data, which is a TIFF file without an image: TIFF 6.0.

Pillow's reader copies the data of every tag, also of the thousands that may name the same bytes,
and warns. This one reads the tags that are asked for, each up to a limit, of one directory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, TypeAlias

from perception_encoder.metadata.values import MAX_BLOCK_BYTES

TagValue: TypeAlias = bytes | tuple[float | None, ...]
"""The bytes of texts and of what has no type; else numbers, None for a rational n/0."""
Tags: TypeAlias = Mapping[int, TagValue]

XMP_TAG: Final = 700
IPTC_TAG: Final = 33_723
PHOTOSHOP_TAG: Final = 34_377
_BLOCK_TAGS: Final = frozenset((XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG))
_MAX_TAG_BYTES: Final = 2**16
_MAX_TAGS: Final = 4096  # of a directory; libtiff reads no more
_MAX_NUMBERS: Final = 16
_RAW_STARTS: Final = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0")  # of Olympus and Panasonic

# Letter of `struct`, by type; rationals are pairs.
_LETTERS: Final = {
    3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 10: "i", 11: "f", 12: "d", 13: "I",
    16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
_RATIONALS: Final = (5, 10)
_BYTES: Final = (1, 2, 7, 129)  # numbers of 8 bits, ASCII, anything, UTF-8
_TYPE_SIZES: Final = {kind: struct.calcsize(letter) for kind, letter in _LETTERS.items()} | {
    **dict.fromkeys(_BYTES, 1),
    **dict.fromkeys(_RATIONALS, 8),
}


class TiffTags:
    """The tags of a TIFF file or an EXIF block.

    Args:
        data: from the byte order mark on. Nothing is read of what is no such data.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        start = data[:4]
        self._order = {b"II": "<", b"MM": ">"}.get(start[:2], "")
        self._is_big = start in (b"II+\0", b"MM\0+")
        is_tiff = self._is_big or start in (b"II*\0", b"MM\0*") or start in _RAW_STARTS
        place, letter = (8, "Q") if self._is_big else (4, "I")
        self.first = self._number(place, letter) if is_tiff else 0
        """Where the first directory begins; 0 where there is none."""

    def read(self, offset: int, wanted: frozenset[int]) -> dict[int, TagValue]:
        """Read some tags of the directory at an offset. Of a tag that comes twice, the first."""
        found: dict[int, TagValue] = {}
        count_letter, entry_bytes = ("Q", 20) if self._is_big else ("H", 12)
        if offset < 8:
            return found
        count = min(self._number(offset, count_letter), _MAX_TAGS)
        start = offset + struct.calcsize(count_letter)
        count = min(count, max(0, len(self._data) - start) // entry_bytes)
        entries = memoryview(self._data)[start : start + count * entry_bytes]
        layout = "HHQ8s" if self._is_big else "HHI4s"
        for tag, kind, size, inline in struct.iter_unpack(self._order + layout, entries):
            if tag in wanted and tag not in found:
                value = self._value(tag, kind, size, inline)
                if value is not None:
                    found[tag] = value
        return found

    def _value(self, tag: int, kind: int, count: int, inline: bytes) -> TagValue | None:
        type_size = _TYPE_SIZES.get(kind)
        if type_size is None or count == 0:
            return None
        if tag in _BLOCK_TAGS:
            if count * type_size > MAX_BLOCK_BYTES:
                return None
            return self._content(count * type_size, inline)  # IPTC is said to be numbers
        if kind in _BYTES:
            return self._content(min(count, _MAX_TAG_BYTES), inline)
        count = min(count, _MAX_NUMBERS)
        content = self._content(count * type_size, inline)
        if len(content) < count * type_size:
            return None
        is_rational = kind in _RATIONALS
        letters = _LETTERS[kind] * (2 * count if is_rational else count)
        numbers = struct.unpack(self._order + letters, content)
        if not is_rational:
            return numbers
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return tuple(above / below if below else None for above, below in pairs)

    def _content(self, size: int, inline: bytes) -> bytes:
        if size <= len(inline):
            return inline[:size]
        (place,) = struct.unpack(self._order + ("Q" if self._is_big else "I"), inline)
        return self._data[place : place + size]

    def _number(self, place: int, letter: str) -> int:
        try:
            (number,) = struct.unpack_from(self._order + letter, self._data, place)
        except (struct.error, OverflowError):
            return 0
        return int(number)
