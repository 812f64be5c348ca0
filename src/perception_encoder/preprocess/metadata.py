"""Takes metadata out of files whose decoder fails over it: TIFF, GIF, AVIF and HEIC.

For a second attempt at what could not be decoded; nothing here is done to an ordinary file.
"""

import struct
from typing import Final

from perception_encoder.preprocess.jpeg2000 import iter_boxes

# What decides a TIFF's pixels: sizes, samples, compression, strips, tiles, colors, orientation.
_PIXEL_TAGS: Final = frozenset(
    (
        *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320),
        *(322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 532),
    )
)
_TIFF_STARTS: Final = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_MAX_EXTENSIONS: Final = 10_000
_MAX_TAGS: Final = 4096  # libtiff reads no more


def without_metadata(data: bytes) -> bytes | None:
    """Return a file of the same pixels without what else it holds; None where there is none.

    Args:
        data: of a file.
    """
    if data[:4] in _TIFF_STARTS:
        return _tiff(data)
    if data.startswith(b"GIF8"):
        return _gif(data)
    return _heif(data) if data[4:8] == b"ftyp" else None


def _tiff(data: bytes) -> bytes | None:
    order = _TIFF_STARTS[data[:4]]
    is_big = b"+" in data[:4]
    entry_bytes, count_format, offset_format = (20, "Q", "Q") if is_big else (12, "H", "I")
    try:
        (start,) = struct.unpack_from(order + offset_format, data, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + count_format, data, min(start, len(data)))
    except struct.error:
        return None
    first = start + struct.calcsize(count_format)
    count = min(count, _MAX_TAGS, (len(data) - first) // entry_bytes)
    places = range(first, first + count * entry_bytes, entry_bytes)
    entries = [data[place : place + entry_bytes] for place in places]
    kept = {struct.unpack_from(order + "H", entry)[0]: entry for entry in reversed(entries)}
    kept = {tag: kept[tag] for tag in sorted(kept) if tag in _PIXEL_TAGS}
    if len(kept) == len(entries):
        return None
    directory = struct.pack(order + count_format, len(kept)) + b"".join(kept.values())
    directory += bytes(8 if is_big else 4)  # no further image
    return data[:start] + directory + data[start + len(directory) :]


def _gif(data: bytes) -> bytes | None:
    """Drop the extensions before the first image, but for the last that may tell its transparency.

    Pillow loses its way in one that is empty.
    """
    if len(data) < 13:
        return None
    first = position = 13 + (6 << (data[10] & 7) if data[10] & 0x80 else 0)
    control = b""
    for _ in range(_MAX_EXTENSIONS):
        if data[position : position + 1] != b"!":
            break
        start = position
        position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
        if data[start + 1 : start + 3] == b"\xf9\x04":
            control = data[start:position]
    if position - first == len(control):
        return None
    return data[:first] + control + data[position:]


def _heif(data: bytes) -> bytes | None:
    """Rename the items of EXIF data, so that nobody looks for them."""
    for box in iter_boxes(data):
        if box.kind == b"meta":
            content = data[box.start : box.end]
            renamed = content.replace(b"Exif", b"skip")
            if renamed != content:
                return data[: box.start] + renamed + data[box.end :]
    return None
