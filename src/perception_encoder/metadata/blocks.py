"""Find the blocks of metadata in an encoded file, without decoding its image.

JPEG, PNG, WebP, TIFF, HEIC and AVIF files are walked from header to header. Of each kind of
metadata the first block of at most `MAX_BLOCK_BYTES` is taken. Layouts: ITU-T T.81, B.1.1; PNG
(third edition), 5.3; RFC 9649; TIFF 6.0; ISO/IEC 14496-12, 8.11.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from perception_encoder.metadata.exif import MAX_BLOCK_BYTES

_EXIF_START: Final = b"Exif\0\0"
_XMP_START: Final = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP_START: Final = b"Photoshop 3.0\0"
_MAX_PARTS: Final = 100_000


class MetadataBlocks(NamedTuple):
    """The blocks of one file; empty where there are none.

    Attributes:
        exif: from the byte order mark on. A TIFF file is one itself.
        xmp: an XML document.
        photoshop: resources of Photoshop, which hold IPTC.
        iptc: bare IPTC.
    """

    exif: bytes = b""
    xmp: bytes = b""
    photoshop: bytes = b""
    iptc: bytes = b""


_NOTHING: Final = MetadataBlocks()


def find_blocks(data: bytes) -> MetadataBlocks:
    """Find the metadata of a file of any kind; none in one that is damaged or of another kind."""
    if data.startswith(b"\xff\xd8\xff"):
        return _find_in_jpeg(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return MetadataBlocks(exif=data)
    return _NOTHING


_FILL: Final = re.compile(rb"\xff+")
_SCAN: Final = 0xDA
_END: Final = 0xD9
_APP1: Final = 0xE1
_APP13: Final = 0xED
_MAX_PHOTOSHOP_SEGMENTS: Final = MAX_BLOCK_BYTES // 2**16


def _find_in_jpeg(data: bytes) -> MetadataBlocks:
    """Walk the segments before the image data."""
    exif = xmp = b""
    photoshop: list[bytes] = []
    position = 2
    for _ in range(_MAX_PARTS):
        fill = _FILL.match(data, position)
        if fill is None or fill.end() + 3 > len(data):
            break
        position = fill.end()
        marker = data[position]
        if marker in (_SCAN, _END):
            break
        start, position = position + 3, position + 1
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
        if marker == _APP1:
            if not exif and data.startswith(_EXIF_START, start):
                exif = data[start + len(_EXIF_START) : position]
            elif not xmp and data.startswith(_XMP_START, start):
                xmp = data[start + len(_XMP_START) : position]
        elif marker == _APP13 and data.startswith(_PHOTOSHOP_START, start):
            photoshop.append(data[start + len(_PHOTOSHOP_START) : position])
    # Long resources go on in further segments.
    joined = b"".join(photoshop[:_MAX_PHOTOSHOP_SEGMENTS])
    return MetadataBlocks(exif=exif, xmp=xmp, photoshop=joined)
