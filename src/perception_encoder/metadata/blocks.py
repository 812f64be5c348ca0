"""Find the blocks of metadata in an encoded file, without decoding its image.

JPEG, PNG, WebP, TIFF, HEIC, AVIF, JPEG XL and RAW files are walked from header to header. Of each
kind of metadata the first block of at most `MAX_BLOCK_BYTES` is taken. Layouts: ITU-T T.81, B.1.1;
PNG (third edition), 5.3; RFC 9649; TIFF 6.0; ISO/IEC 14496-12, 8.11; ISO/IEC 18181-2.
"""

from __future__ import annotations

import re
import zlib
from itertools import islice
from typing import Final, NamedTuple

from perception_encoder.metadata.tiff import IPTC_TAG, PHOTOSHOP_TAG, XMP_TAG, TiffTags
from perception_encoder.metadata.values import MAX_BLOCK_BYTES
from perception_encoder.preprocess.heif import iter_metadata
from perception_encoder.preprocess.jpeg2000 import iter_boxes
from perception_encoder.preprocess.limits import LimitError

_EXIF_START: Final = b"Exif\0\0"
_XMP_START: Final = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP_START: Final = b"Photoshop 3.0\0"
_MAX_PARTS: Final = 100_000
_MAX_BLOCKS: Final = 16  # that are unpacked or joined in order to see whether they are one
_MAX_PNG_CHUNKS: Final = 2**18  # as `preprocess.metadata` allows


class MetadataBlocks(NamedTuple):
    """The blocks of one file; empty where there are none.

    Attributes:
        exif: from the byte order mark on. A TIFF file is one itself.
        xmp: an XML document.
        photoshop: resources of Photoshop, which hold IPTC.
        iptc: bare IPTC.
        exif_part: the second directory of EXIF, in CR3 files.
        gps_part: the directory of the place, in CR3 files.
    """

    exif: bytes = b""
    xmp: bytes = b""
    photoshop: bytes = b""
    iptc: bytes = b""
    exif_part: bytes = b""
    gps_part: bytes = b""


def find_blocks(data: bytes) -> MetadataBlocks:
    """Find the metadata of a file of any kind; none in one that is damaged or of another kind."""
    if data.startswith(b"\xff\xd8\xff"):
        return _find_in_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _find_in_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _find_in_webp(data)
    if data[4:12] == b"ftypcrx ":
        return _find_in_cr3(data)
    if data[4:8] == b"ftyp":
        return _find_in_heif(data)
    if data.startswith(_JPEG_XL_START):
        return _find_in_jpeg_xl(data)
    if data.startswith(b"FUJIFILMCCD-RAW"):
        start = int.from_bytes(data[_RAF_OFFSET : _RAF_OFFSET + 4], "big")
        size = int.from_bytes(data[_RAF_OFFSET + 4 : _RAF_OFFSET + 8], "big")
        return _find_in_jpeg(data[start : start + size])
    return _find_in_tiff(data)


_RAF_OFFSET: Final = 84  # where and how long the JPEG is that has the metadata
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


_XMP_KEY: Final = b"XML:com.adobe.xmp"
_RAW_PROFILE: Final = b"Raw profile type "
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")


def _find_in_png(data: bytes) -> MetadataBlocks:
    """Walk all chunks: programs add metadata behind the image data too.

    ImageMagick writes blocks as texts of hexadecimal digits, "Raw profile type exif".
    """
    found: dict[str, bytes] = {}
    num_texts = 0
    position = 8
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data):
            break
        size = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        start, position = position + 8, position + 12 + size
        if kind == b"IDAT" or size > MAX_BLOCK_BYTES:
            continue
        if kind == b"eXIf":
            found.setdefault("exif", _without_start(data[start : start + size]))
        elif kind in _TEXTS and data.startswith((_XMP_KEY, _RAW_PROFILE), start):
            num_texts += 1
            if num_texts > _MAX_BLOCKS:
                break
            name, content = _read_png_text(kind, data[start : start + size])
            if content:
                found.setdefault(name, content)
    return MetadataBlocks(
        exif=found.get("exif", b""), xmp=found.get("xmp", b""), photoshop=found.get("iptc", b"")
    )


def _read_png_text(kind: bytes, chunk: bytes) -> tuple[str, bytes]:
    """Return the name and content of a block that is stored as a text; empty if it is damaged."""
    key, _, content = chunk.partition(b"\0")
    is_packed = kind == b"zTXt"
    if kind == b"iTXt":
        is_packed = content[:1] == b"\1"
        content = content[:2] + content[2:].split(b"\0", 2)[-1]
    if is_packed:
        content = _unpack(content[1 if kind == b"zTXt" else 2 :])
    elif kind == b"iTXt":
        content = content[2:]
    if key == _XMP_KEY:
        return "xmp", content
    name = key.removeprefix(_RAW_PROFILE).decode("latin-1").lower()
    try:  # a name, the number of bytes and the digits, each from a line on; programs write more
        _, size, digits = content.strip().split(b"\n", 2)
        block = bytes.fromhex(b"".join(digits.split())[: 2 * int(size[:10])].decode("ascii"))
    except ValueError:
        return "", b""
    if name == "app1" and not block.startswith(_EXIF_START):
        return "xmp", block.removeprefix(_XMP_START)
    names = {"exif": "exif", "app1": "exif", "xmp": "xmp", "iptc": "iptc"}
    return names.get(name, ""), _without_start(block)


def _unpack(packed: bytes) -> bytes:
    """Decompress at most the largest block; more than that is nothing."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(packed, MAX_BLOCK_BYTES)
    except zlib.error:
        return b""
    return b"" if unpacking.unconsumed_tail else content


def _find_in_webp(data: bytes) -> MetadataBlocks:
    found: dict[bytes, bytes] = {}
    position = 12
    for _ in range(_MAX_PARTS):
        if position + 8 > len(data):
            break
        kind = data[position : position + 4]
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        start, position = position + 8, position + 8 + size + size % 2
        if kind in (b"EXIF", b"XMP ") and size <= MAX_BLOCK_BYTES:
            found.setdefault(kind, data[start : start + size])
    return MetadataBlocks(exif=_without_start(found.get(b"EXIF", b"")), xmp=found.get(b"XMP ", b""))


def _find_in_heif(data: bytes) -> MetadataBlocks:
    found: dict[bytes, bytes] = {}
    try:
        for kind, content in islice(iter_metadata(data, MAX_BLOCK_BYTES), _MAX_BLOCKS):
            found.setdefault(kind, content)
    except (ValueError, LimitError):
        pass  # what came before the damage
    exif = _skip_offset(found.get(b"Exif", b""))
    return MetadataBlocks(exif=exif, xmp=found.get(b"application/rdf+xml", b""))


_JPEG_XL_START: Final = b"\0\0\0\x0cJXL \r\n\x87\n"


def _find_in_jpeg_xl(data: bytes) -> MetadataBlocks:
    found: dict[bytes, bytes] = {}
    for box, _ in zip(iter_boxes(data), range(_MAX_PARTS), strict=False):
        if box.kind in (b"Exif", b"xml ") and box.end - box.start <= MAX_BLOCK_BYTES:
            found.setdefault(box.kind, data[box.start : box.end])
    return MetadataBlocks(exif=_skip_offset(found.get(b"Exif", b"")), xmp=found.get(b"xml ", b""))


_CANON: Final = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_XMP_UUID: Final = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_CMT: Final = (b"CMT1", b"CMT2", b"CMT4")


def _find_in_cr3(data: bytes) -> MetadataBlocks:
    """Take the directories of EXIF apart, each a TIFF file, from a box of Canon's."""
    found: dict[bytes, bytes] = {}
    boxes = list(islice(iter_boxes(data), _MAX_BLOCKS))
    movie = next((box for box in boxes if box.kind == b"moov"), None)
    if movie is not None:
        boxes += islice(iter_boxes(data, movie.start, movie.end), _MAX_BLOCKS)
    for box in boxes:
        if box.kind == b"uuid" and data.startswith(_XMP_UUID, box.start):
            found.setdefault(b"xmp", data[box.start + 16 : box.end][: MAX_BLOCK_BYTES + 1])
        elif box.kind == b"uuid" and data.startswith(_CANON, box.start):
            for part in islice(iter_boxes(data, box.start + 16, box.end), _MAX_BLOCKS):
                if part.kind in _CMT:
                    found.setdefault(part.kind, data[part.start : part.end])
    main, exif, gps = (found.get(kind, b"") for kind in _CMT)
    return MetadataBlocks(exif=main, xmp=found.get(b"xmp", b""), exif_part=exif, gps_part=gps)


def _find_in_tiff(data: bytes) -> MetadataBlocks:
    file = TiffTags(data)
    tags = file.read(file.first, frozenset((XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG)))
    blocks = {tag: value for tag, value in tags.items() if isinstance(value, bytes)}
    return MetadataBlocks(
        exif=data if file.first else b"",
        xmp=blocks.get(XMP_TAG, b""),
        photoshop=blocks.get(PHOTOSHOP_TAG, b""),
        iptc=blocks.get(IPTC_TAG, b""),
    )


def _skip_offset(content: bytes) -> bytes:
    """Skip what an item of EXIF data has before it, as its first four bytes say."""
    offset = int.from_bytes(content[:4], "big")
    return _without_start(content[4 + offset :])


def _without_start(exif: bytes) -> bytes:
    """Drop what belongs to JPEG alone; some programs write it elsewhere too."""
    return exif.removeprefix(_EXIF_START)
