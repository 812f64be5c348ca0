"""Find the preview in a camera's RAW file: the largest JPEG beside the data of the sensor.

Cameras store the preview in one piece, and each maker in another place. So the file is searched for
JPEGs. The directories of a TIFF say whether it is a RAW file, what its orientation is, and which
JPEGs are parts of the sensor's data. Layout: TIFF 6.0; DNG 1.7.1; ISO/IEC 14496-12 for CR3.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Final, Literal, NamedTuple, TypeAlias

from perception_encoder.preprocess.jpeg2000 import iter_boxes

MIN_PREVIEW_SIDE: Final = 224
"""Of a preview in pixels; smaller ones, such as the 160 × 120 for a camera's display, do not show
what a model could see."""

_TIFF_STARTS: Final[dict[bytes, Literal["<", ">"]]] = {
    b"II*\0": "<", b"MM\0*": ">",
    b"IIU\0": "<",  # RW2
    b"IIRO": "<", b"IIRS": "<", b"MMOR": ">",  # ORF
}  # fmt: skip
_PLAIN_TIFF: Final = (b"II*\0", b"MM\0*")
_RAF_START: Final = b"FUJIFILMCCD-RAW"
_CR3_START: Final = b"ftypcrx "
_CR2_MARK: Final = b"CR"
_UUID_BYTES: Final = 16

_PHOTOMETRIC: Final = 262
_STRIPS: Final = 273
_ORIENTATION: Final = 274
_TILES: Final = 324
_SUB_DIRECTORIES: Final = 330
_DNG_VERSION: Final = 50_706
_SENSOR_DATA: Final = frozenset((32_803, 34_892))  # a color filter array, linear raw
_NOT_SHOWN: Final = _SENSOR_DATA | {4, 51_177, 52_527}  # masks and depths
_NUMBERS: Final = {3: "H", 4: "I", 13: "I"}
_MAX_DIRECTORIES: Final = 64
_MAX_ENTRIES: Final = 4096
_MAX_NUMBERS: Final = 2**16

_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
_MAX_JPEGS: Final = 4096  # a roll of Canon's has hundreds; chance makes a few more in 100 MB
_MAX_SEGMENTS: Final = 200
_SHOWN_FRAMES: Final = (0xC0, 0xC1, 0xC2)  # others are lossless: the sensor's data
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN: Final = 0xDA
_EXIF: Final = b"Exif\0\0"

_ReadAt: TypeAlias = Callable[[int, int], bytes]


class _Jpeg(NamedTuple):
    start: int
    frame: int  # where its frame header is
    width: int
    height: int
    has_exif: bool


@dataclass(slots=True)
class _Layout:
    """What the directories of a TIFF tell.

    Attributes:
        is_raw: whether there is a sensor's data.
        orientation: 1 to 8, as in EXIF.
        parts: offsets of strips and tiles that are no image of their own.
    """

    is_raw: bool = False
    orientation: int = 1
    parts: set[int] = field(default_factory=set)


def is_raw(stream: IO[bytes]) -> bool:
    """Whether a stream holds a RAW file. Its position changes.

    Args:
        stream: seekable, from its beginning. Of a TIFF the directories are read, else 16 bytes.
    """
    stream.seek(0)
    head = stream.read(16)
    if head.startswith(_RAF_START) or head[4:12] == _CR3_START:
        return True
    if head[:4] not in _TIFF_STARTS:
        return False
    if head[:4] not in _PLAIN_TIFF or head[8:10] == _CR2_MARK:
        return True

    def read_at(start: int, size: int) -> bytes:
        stream.seek(start)
        return stream.read(size)

    return _read_layout(read_at).is_raw


def find_preview(data: bytes) -> bytes | None:
    """Return the largest image that a camera stored in a RAW file, as a JPEG with its orientation.

    Args:
        data: of a RAW file.

    Returns:
        None where both sides of none are at least `MIN_PREVIEW_SIDE`.
    """
    layout = _layout_of(data)
    usable = (
        jpeg
        for jpeg in _iter_jpegs(data)
        if min(jpeg.width, jpeg.height) >= MIN_PREVIEW_SIDE and jpeg.start not in layout.parts
    )
    best = max(usable, key=lambda jpeg: jpeg.width * jpeg.height, default=None)
    if best is None:
        return None
    content = memoryview(data)[best.start : _find_end(data, best.frame)]
    if best.has_exif or layout.orientation == 1:
        return bytes(content)
    return b"".join((content[:2], _exif_segment(layout.orientation), content[2:]))


def _layout_of(data: bytes) -> _Layout:
    if data[4:12] == _CR3_START:
        view = next(_canon_directories(data), memoryview(b""))
        return _read_layout(lambda at, size: bytes(view[at : at + size]))
    return _read_layout(lambda at, size: data[at : at + size])


def _canon_directories(data: bytes) -> Iterator[memoryview]:
    """Yield the TIFFs with the orientation in a CR3 file."""
    for movie in iter_boxes(data):
        if movie.kind != b"moov":
            continue
        for extension in iter_boxes(data, movie.start, movie.end):
            if extension.kind == b"uuid":
                for box in iter_boxes(data, extension.start + _UUID_BYTES, extension.end):
                    if box.kind == b"CMT1":
                        yield memoryview(data)[box.start : box.end]


def _read_layout(read_at: _ReadAt) -> _Layout:
    """Read the directories of a TIFF and those that they name; damaged ones are left out."""
    layout = _Layout()
    head = read_at(0, 8)
    order = _TIFF_STARTS.get(head[:4])
    if order is None or len(head) < 8:
        return layout
    left = [struct.unpack_from(order + "I", head, 4)[0]]
    seen = set[int]()
    while left and len(seen) < _MAX_DIRECTORIES:
        start = left.pop(0)
        if start == 0 or start in seen:
            continue
        tags, following = _read_directory(read_at, start, order)
        if not seen:
            layout.is_raw = _DNG_VERSION in tags
            layout.orientation = next(iter(tags.get(_ORIENTATION, ())), 1)
        seen.add(start)
        photometric = next(iter(tags.get(_PHOTOMETRIC, ())), None)
        layout.is_raw = layout.is_raw or photometric in _SENSOR_DATA
        parts = tags.get(_STRIPS, ()) + tags.get(_TILES, ())
        if len(parts) > 1 or photometric in _NOT_SHOWN:
            layout.parts.update(parts)
        left += [*tags.get(_SUB_DIRECTORIES, ()), following]
    if layout.orientation not in range(1, 9):
        layout.orientation = 1
    return layout


def _read_directory(
    read_at: _ReadAt, start: int, order: Literal["<", ">"]
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the numbers of each tag in use, and the offset of the next directory."""
    count = read_at(start, 2)
    if len(count) < 2:
        return {}, 0
    num_entries = min(struct.unpack(order + "H", count)[0], _MAX_ENTRIES)
    entries = read_at(start + 2, 12 * num_entries + 4)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(0, min(12 * num_entries, len(entries) - 11), 12):
        tag, kind, num_values = struct.unpack_from(order + "HHI", entries, at)
        if tag == _DNG_VERSION:
            tags[tag] = ()
        letter = _NUMBERS.get(kind)
        if letter is None or tag not in _USED or num_values > _MAX_NUMBERS:
            continue
        size = num_values * struct.calcsize(letter)
        values = entries[at + 8 : at + 8 + size]
        if size > 4:
            values = read_at(struct.unpack_from(order + "I", entries, at + 8)[0], size)
        if len(values) == size:
            tags[tag] = struct.unpack(f"{order}{num_values}{letter}", values)
    following = entries[12 * num_entries :]
    return tags, struct.unpack(order + "I", following)[0] if len(following) == 4 else 0


_USED: Final = (_PHOTOMETRIC, _STRIPS, _ORIENTATION, _TILES, _SUB_DIRECTORIES)


def _iter_jpegs(data: bytes) -> Iterator[_Jpeg]:
    start = -1
    for _ in range(_MAX_JPEGS):
        start = data.find(_JPEG_START, start + 1)
        if start < 0:
            return
        if (jpeg := _read_jpeg(data, start)) is not None:
            yield jpeg


def _read_jpeg(data: bytes, start: int) -> _Jpeg | None:
    """Read the header of a JPEG; None where it is none, or none that is shown."""
    position = start + 2
    has_exif = False
    for _ in range(_MAX_SEGMENTS):
        segment = data[position : position + 10]
        if len(segment) < 10 or segment[0] != 0xFF or segment[1] in (_SCAN, 0):
            return None
        marker = segment[1]
        if marker in _FRAMES:
            precision, height, width = struct.unpack_from(">BHH", segment, 4)
            num_channels = segment[9]
            if marker not in _SHOWN_FRAMES or precision != 8 or num_channels not in (1, 3):
                return None
            return _Jpeg(start, position, width, height, has_exif)
        has_exif = has_exif or segment[4:] == _EXIF
        position += 1 if marker == 0xFF else 2 + int.from_bytes(segment[2:4], "big")
    return None


def _find_end(data: bytes, position: int) -> int:
    """Return where a JPEG ends: a preview is a small part of the file.

    Args:
        data: the file.
        position: of the frame header. From the first scan on, only the end looks like the end.
    """
    for _ in range(_MAX_SEGMENTS):
        if data[position + 1 : position + 2] == bytes((_SCAN,)):
            break
        position += max(1, 2 + int.from_bytes(data[position + 2 : position + 4], "big"))
    end = data.find(_JPEG_END, position)
    return len(data) if end < 0 else end + len(_JPEG_END)


def _exif_segment(orientation: int) -> bytes:
    """Return the segment of a JPEG that tells its orientation."""
    entry = struct.pack(">HHIHH", _ORIENTATION, 3, 1, orientation, 0)
    content = _EXIF + b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content
