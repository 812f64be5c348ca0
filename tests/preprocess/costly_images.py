"""Small files that would cost much: time, memory or reads that never end. Made by code."""

import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from preprocess.preprocess_images import FORMATS, encode, scene


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions are called, in Python and C: work that no machine makes slower."""
    count = 0

    def counting(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(counting)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def scans(num_scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    present = data.count(b"\xff\xda")
    return data[:-2] + last * (num_scans - present) + b"\xff\xd9"


def with_segments(segments: bytes, *, name: str = "jpeg") -> bytes:
    """A JPEG with more after its first two bytes."""
    return FORMATS[name][:2] + segments + FORMATS[name][2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def chunk(kind: bytes, content: bytes, *, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunks(chunks: bytes, *, before: bytes = b"IDAT", name: str = "png") -> bytes:
    """A PNG with more chunks before the first of a kind."""
    place = FORMATS[name].index(before) - 4
    return FORMATS[name][:place] + chunks + FORMATS[name][place:]


def tiff(
    tags: dict[int, tuple[int, Any]], content: bytes, *, width: int = 16, height: int = 16
) -> bytes:
    """A gray TIFF of 8 bits: content begins at byte 8, tags are (type, numbers) or more tags."""
    types = {1: "u1", 3: "<u2", 4: "<u4", 7: "u1", 12: "<f8", 16: "<u8"}
    standard = {256: (4, [width]), 257: (4, [height]), 258: (3, [8]), 259: (3, [1])}
    standard |= {262: (3, [1]), 277: (3, [1]), 278: (4, [height])}
    standard |= {273: (4, [8]), 279: (4, [len(content)])}
    data = bytearray(b"II*\0\0\0\0\0" + content)
    entries = []
    for tag, (kind, values) in sorted((standard | tags).items()):
        numbers = np.asarray(values, types[kind])
        raw = numbers.tobytes()
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", len(data))
        entries.append(struct.pack("<HHI", tag, kind, len(numbers)) + place)
        data += raw if len(raw) > 4 else b""
    data[4:8] = struct.pack("<I", len(data))
    return bytes(data + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


def gray_rows(height: int = 28, width: int = 40) -> bytes:
    return np.asarray(scene(width, height).convert("L")).tobytes()
