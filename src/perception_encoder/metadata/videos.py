"""Read when, where and with what a video was taken: from MP4 and QuickTime files.

Only the headers of boxes and a few small boxes are read, so that the length of the video does not
matter. Other containers say nothing that cameras agree on.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO, Final, NamedTuple

from perception_encoder.metadata.photo import PhotoMetadata
from perception_encoder.metadata.values import (
    join_camera,
    make_altitude,
    make_place,
    parse_taken,
    taken_from_timestamp,
)

_MAX_BOXES: Final = 1000  # in one box, or in the file
_MAX_BOX_BYTES: Final = 2**20  # of a box that is read
_MAX_KEYS: Final = 1000
_SUFFIXES: Final = frozenset((".mp4", ".mov", ".m4v", ".3gp"))
_SECONDS_1904: Final = int((datetime(1970, 1, 1) - datetime(1904, 1, 1)).total_seconds())
_ISO_6709: Final = re.compile(
    r"([+-]\d{1,2}(?:\.\d{1,9})?)([+-]\d{1,3}(?:\.\d{1,9})?)([+-]\d{1,6}(?:\.\d{1,9})?)?"
)
_APPLE: Final = "com.apple.quicktime."


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def read_video_metadata(path: str | os.PathLike[str]) -> PhotoMetadata:
    """Read the time, place and camera of a video; no frame is decoded.

    It raises nothing for what the file holds. The time of Apple's cameras is local, with its
    offset; that of others is in UTC (`taken_offset` is 0).

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
    """
    if os.path.splitext(path)[1].lower() not in _SUFFIXES:
        return PhotoMetadata()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        movie = next((one for one in _iter_boxes(file, 0, size) if one.kind == b"moov"), None)
        return PhotoMetadata() if movie is None else _read_movie(file, movie)


def _read_movie(file: BinaryIO, movie: _Box) -> PhotoMetadata:
    created, location, keys = 0, "", dict[str, str]()
    for box in _iter_boxes(file, movie.start, movie.end):
        if box.kind == b"mvhd":
            created = _read_creation(_read(file, box))
        elif box.kind == b"meta":
            keys |= _read_keys(file, box)
        elif box.kind == b"udta":
            for part in _iter_boxes(file, box.start, box.end):
                if part.kind == b"\xa9xyz":  # Android; two lengths of 16 bits come first
                    location = _decode(_read(file, part)[4:])
                elif part.kind == b"meta":
                    keys |= _read_keys(file, part)
    taken = parse_taken(keys.get(f"{_APPLE}creationdate"))
    if taken is None and created:
        taken = taken_from_timestamp(created - _SECONDS_1904)
    found = _ISO_6709.match(keys.get(f"{_APPLE}location.ISO6709") or location)
    latitude, longitude = make_place(*map(float, found.groups()[:2])) if found else (None, None)
    altitude = float(found[3]) if found and found[3] and latitude is not None else None
    camera = join_camera(keys.get(f"{_APPLE}make"), keys.get(f"{_APPLE}model"))
    return PhotoMetadata(
        taken_at=taken and taken.taken_at,
        taken_offset=taken and taken.taken_offset,
        latitude=latitude,
        longitude=longitude,
        altitude=make_altitude(altitude),
        camera=camera,
    )


def _read_creation(header: bytes) -> int:
    """Return the seconds since 1904 of a movie header; 0 where they are not known."""
    form = ">Q" if header[:1] == b"\1" else ">I"
    if len(header) < 4 + struct.calcsize(form):
        return 0
    return int(struct.unpack_from(form, header, 4)[0])


def _read_keys(file: BinaryIO, meta: _Box) -> dict[str, str]:
    """Return Apple's keys and their texts."""
    # In MP4 four bytes of version and flags come first, in QuickTime none.
    start = meta.start
    file.seek(start)
    if file.read(8)[4:8] != b"hdlr":
        start += 4
    boxes = {one.kind: one for one in _iter_boxes(file, start, meta.end)}
    if b"keys" not in boxes or b"ilst" not in boxes:
        return {}
    names = _read_names(_read(file, boxes[b"keys"]))
    found = dict[str, str]()
    for item in _iter_boxes(file, boxes[b"ilst"].start, boxes[b"ilst"].end):
        number = int.from_bytes(item.kind, "big")
        if not 1 <= number <= len(names):
            continue
        data = next((p for p in _iter_boxes(file, item.start, item.end) if p.kind == b"data"), None)
        if data is not None:
            found[names[number - 1]] = _decode(_read(file, data)[8:])  # after its type and locale
    return found


def _read_names(content: bytes) -> list[str]:
    names, position = list[str](), 8
    while position + 8 <= len(content) and len(names) < _MAX_KEYS:
        size = max(8, int.from_bytes(content[position : position + 4], "big"))
        names.append(_decode(content[position + 8 : position + size]))
        position += size
    return names


def _iter_boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes in a part of a file; one that is longer than the part ends with it."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        header = file.read(16)
        size, kind, content = int.from_bytes(header[:4], "big"), header[4:8], start + 8
        if size == 1:
            size, content = int.from_bytes(header[8:16], "big"), start + 16
        following = end if size == 0 else start + size
        if following < content:
            return
        yield _Box(kind, content, min(following, end))
        start = following


def _read(file: BinaryIO, box: _Box) -> bytes:
    if box.end - box.start > _MAX_BOX_BYTES:
        return b""
    file.seek(box.start)
    return file.read(box.end - box.start)


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip("\0 ")
