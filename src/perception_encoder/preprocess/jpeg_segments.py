"""Prepares a JPEG file for its decoder: drops what does not decide pixels, counts its scans.

Segments of metadata are read by Pillow before anything is decoded, and a malformed or huge one
would make the image unusable or take minutes. Layout: ITU-T T.81, annex B.
"""

import re
from typing import Final, NamedTuple

from perception_encoder.preprocess.limits import LimitError

_SCAN: Final = 0xDA
_END: Final = 0xD9
_APP0: Final = 0xE0
_APP1: Final = 0xE1
_APP14: Final = 0xEE
_COMMENT: Final = 0xFE
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1})
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # without a length: TEM, restarts, SOI
# A marker, with any number of fill bytes before it; stuffed zeros are no marker.
_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
# Between scans, restart markers belong to the data.
_SCAN_MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_LONG_FILL: Final = b"\xff" * 256
_FILL: Final = re.compile(rb"\xff{3,}")
_METADATA: Final = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")  # of these, the orientation
# Far more than any encoder writes: tables, and 64 KB a segment of profiles and camera makers' data.
_MAX_SEGMENTS: Final = 100_000
_MAX_METADATA: Final = 16


class TrimmedJpeg(NamedTuple):
    """A JPEG without what its decoder does not need.

    Attributes:
        data: the file.
        num_scans: how often the decoder goes over the pixels; 1 where it stops after the first.
    """

    data: bytes
    num_scans: int


def trim_jpeg(data: bytes) -> TrimmedJpeg:
    """Drop comments, profiles, malformed and unknown application segments and fill bytes.

    Kept are JFIF and Adobe segments, which decide colors, and EXIF and XMP for the orientation. The
    pixels' data is kept as it is.

    Args:
        data: a whole file that begins as JPEG does.

    Raises:
        LimitError: more segments than any encoder writes.
        ValueError: no image data.
    """
    kept: list[bytes | memoryview] = [data[:2]]
    position = 2
    num_metadata = num_components = 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None or found[1][0] == _END:
            raise ValueError("no image data")
        marker, start, position = found[1][0], found.start(), found.end()
        if marker in _BARE:
            continue
        if marker == _SCAN:
            kept.append(_without_long_fill(data, start))
            return TrimmedJpeg(b"".join(kept), _count_scans(data, start, num_components))
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
        segment = data[start:position]
        if marker in _FRAMES:
            num_components = segment[9] if marker in _SEQUENTIAL and len(segment) > 9 else 0
        num_metadata += marker == _APP1 and segment.startswith(_METADATA, 4)
        if _is_kept(marker, segment) and (marker != _APP1 or num_metadata <= _MAX_METADATA):
            kept.append(segment)
    raise LimitError(f"more than {_MAX_SEGMENTS:,} segments before the image data")


def _without_long_fill(data: bytes, start: int) -> bytes | memoryview:
    """Return the data from a place on; Pillow reads long fill bytes in it again and again."""
    if data.find(_LONG_FILL, start) < 0:
        return memoryview(data)[start:]
    return _FILL.sub(b"\xff\xff", data[start:])


def _is_kept(marker: int, segment: bytes) -> bool:
    if marker == _APP0:
        return segment.startswith(b"JFIF\0", 4) and len(segment) >= 16
    if marker == _APP1:
        return segment.startswith(_METADATA, 4)
    if marker == _APP14:
        return segment.startswith(b"Adobe", 4) and len(segment) >= 16
    return marker != _COMMENT and not _APP0 <= marker <= 0xEF


def _count_scans(data: bytes, start: int, num_components: int) -> int:
    """Count the scans from the first on.

    Args:
        data: the file.
        start: of the first scan's segment.
        num_components: of a sequential image, which ends after a scan of all of them; else 0.
    """
    if num_components and len(data) > start + 4 and data[start + 4] == num_components:
        return 1
    num_scans = 0
    position = start
    for _ in range(_MAX_SEGMENTS):
        found = _SCAN_MARKER.search(data, position)
        if found is None or found[1][0] == _END:
            return num_scans
        num_scans += found[1][0] == _SCAN
        position = found.end()
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return max(num_scans, _MAX_SEGMENTS)
