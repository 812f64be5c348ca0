"""Remove from files what their decoder does not need: metadata that costs time or fails.

PNG and JPEG files are trimmed before every decoding. TIFF, GIF, AVIF and HEIC files lose their
metadata only for a second attempt, after decoding failed.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from perception_encoder.preprocess.color import MAX_PROFILE_BYTES
from perception_encoder.preprocess.described_colors import make_cicp_profile, make_png_profile
from perception_encoder.preprocess.jpeg2000 import iter_boxes
from perception_encoder.preprocess.limits import LimitError

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


def strip_metadata(data: bytes) -> bytes | None:
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


_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS: Final = 2**18  # libpng makes chunks of 8 KB: 178 megapixels of 16 bits are fewer
# Of what tells the orientation. A camera's EXIF data is below 64 KB.
_MAX_METADATA_BYTES: Final = 2**20
_MAX_METADATA: Final = 16
_ORIENTATION_KEYS: Final = {
    b"iTXt": b"XML:com.adobe.xmp\0",
    b"tEXt": b"Raw profile type exif\0",
    b"zTXt": b"Raw profile type exif\0",
}
_PROFILE_CHUNK: Final = b"iCCP"
_COLOR_CHUNKS: Final = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Chunks that describe colors, and their size in bytes."""
_PNG_UNIT: Final = 100_000
_CHRM: Final = struct.Struct(">8I")
_GRAY: Final = 0
_RGB: Final = 2
_PALETTE: Final = 3


class _Chunk(NamedTuple):
    kind: bytes
    content: memoryview  # shorter than announced where the file ends
    whole: memoryview  # with length, kind and checksum

    @property
    def is_intact(self) -> bool:
        checksum = self.whole[8 + len(self.content) :]
        return zlib.crc32(self.content, zlib.crc32(self.kind)) == int.from_bytes(checksum, "big")


def trim_png(data: bytes) -> bytes:
    """Return a PNG of the same pixels without other chunks, its image data in one piece.

    Colors that it describes without a profile get one. Of animations the image that viewers
    without animations show is kept.

    Args:
        data: a whole file that begins as PNG does.

    Raises:
        LimitError: more chunks than any encoder writes.
        ValueError: no image data.
    """
    kept: dict[bytes, bytes | memoryview] = {}
    metadata: list[memoryview] = []
    pixels: list[memoryview] = []
    colors: dict[bytes, bytes] = {}
    is_after = False  # the image data is one run of chunks
    for chunk in _chunks(data):
        if chunk.kind == b"IDAT":
            if not is_after:
                pixels.append(chunk.content)
            continue
        is_after = bool(pixels)
        if _tells_orientation(chunk) and len(metadata) < _MAX_METADATA:
            metadata.append(chunk.whole)
        elif not is_after:
            _keep(chunk, kept, colors)
    if not pixels:
        raise ValueError("no image data")
    if colors:
        _put_profile(kept, colors)
    # Pillow does not read the checksum of image data.
    start = struct.pack(">I4s", sum(map(len, pixels)), b"IDAT")
    end = _encode(b"IEND", b"")
    return b"".join([_MAGIC, *kept.values(), *metadata, start, *pixels, bytes(4), end])


def _chunks(data: bytes) -> Iterator[_Chunk]:
    view = memoryview(data)
    position = len(_MAGIC)
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + size
        if kind == b"IEND" or not kind.isalpha():
            return
        yield _Chunk(kind, view[position + 8 : end - 4], view[position:end])
        position = end
    raise LimitError(f"more than {_MAX_CHUNKS:,} chunks")


def _tells_orientation(chunk: _Chunk) -> bool:
    content = chunk.content
    if len(content) > _MAX_METADATA_BYTES:
        return False
    if chunk.kind == b"eXIf":
        return chunk.is_intact
    key = _ORIENTATION_KEYS.get(chunk.kind)
    if key is None or content[: len(key)] != key:
        return False
    return chunk.is_intact and _is_bounded(chunk.kind, bytes(content[len(key) :]))


def _keep(chunk: _Chunk, kept: dict[bytes, bytes | memoryview], colors: dict[bytes, bytes]) -> None:
    """Keep what decides pixels, and what describes their colors; the first chunk of each kind."""
    if chunk.kind in _COLOR_CHUNKS:
        if len(chunk.content) == _COLOR_CHUNKS[chunk.kind] and chunk.is_intact:
            colors.setdefault(chunk.kind, bytes(chunk.content))
    elif chunk.kind == _PROFILE_CHUNK:
        if _is_usable_profile(chunk):
            kept.setdefault(chunk.kind, chunk.whole)
    elif chunk.kind in (b"IHDR", b"PLTE", b"tRNS"):
        content = _transparency(chunk, kept) if chunk.kind == b"tRNS" else chunk.whole
        if content is not None:
            kept.setdefault(chunk.kind, content)


def _put_profile(kept: dict[bytes, bytes | memoryview], colors: dict[bytes, bytes]) -> None:
    """Describe colors by a profile: by cICP, else as stored, else by sRGB, else by gAMA and cHRM.

    Source of the order: PNG, third edition, 13.13.
    """
    primaries, transfer, matrix, is_full = colors.get(b"cICP", bytes(4))
    profile = make_cicp_profile(primaries, transfer) if (matrix, is_full) == (0, 1) else None
    if profile is None and _PROFILE_CHUNK not in kept and b"sRGB" not in colors:
        gamma, points = colors.get(b"gAMA"), colors.get(b"cHRM")
        if gamma is not None or points is not None:
            profile = make_png_profile(
                None if gamma is None else int.from_bytes(gamma, "big") / _PNG_UNIT,
                None if points is None else tuple(n / _PNG_UNIT for n in _CHRM.unpack(points)),
            )
    if profile is not None:
        content = b"-\0\0" + zlib.compress(profile, 1)
        kept[_PROFILE_CHUNK] = _encode(_PROFILE_CHUNK, content)


def _is_usable_profile(chunk: _Chunk) -> bool:
    """Say whether a color profile is packed as Pillow unpacks it, and has a bounded size."""
    _, end, packed = bytes(chunk.content[:_MAX_METADATA_BYTES]).partition(b"\0")
    return bool(end) and packed[:1] == b"\0" and chunk.is_intact and _is_bounded(b"zTXt", packed)


def _is_bounded(kind: bytes, content: bytes) -> bool:
    """Say whether a text, after its key, unpacks to something of a bounded size."""
    if kind == b"iTXt" and content[:1] == b"\1":
        content = content[1:].split(b"\0", 2)[-1]
        packed = content[1:]
    elif kind == b"zTXt":
        packed = content[1:]
    else:
        return True
    try:
        unpacking = zlib.decompressobj()
        unpacking.decompress(packed, _MAX_METADATA_BYTES)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail


def _transparency(chunk: _Chunk, kept: dict[bytes, bytes | memoryview]) -> bytes | None:
    """Return the chunk as Pillow takes it, or None where browsers pass over it.

    Pillow compares keys with the 8 bits that it makes of other depths (16-bit gray excepted).
    """
    header = kept.get(b"IHDR", b"")
    if not chunk.is_intact or len(header) < 25:
        return None
    depth, color = header[16], header[17]
    content = bytes(chunk.content)
    if color == _PALETTE:
        num_colors = (len(kept.get(b"PLTE", b"")) - 12) // 3
        return _encode(b"tRNS", content[:num_colors]) if content and num_colors > 0 else None
    num_channels = {_GRAY: 1, _RGB: 3}.get(color)
    if num_channels is None or len(content) != 2 * num_channels:
        return None
    keys = struct.unpack(f">{num_channels}H", content)
    if depth == 16 and color == _RGB:
        keys = tuple(key >> 8 for key in keys)
    elif depth == 8:
        keys = tuple(key & 0xFF for key in keys)
    elif depth < 8:
        largest = 2**depth - 1
        if keys[0] > largest:
            return None
        keys = (keys[0] * 255 // largest,)
    return _encode(b"tRNS", struct.pack(f">{num_channels}H", *keys))


def _encode(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


_SCAN: Final = 0xDA
_END: Final = 0xD9
_APP0: Final = 0xE0
_APP1: Final = 0xE1
_APP2: Final = 0xE2
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
_PROFILE: Final = b"ICC_PROFILE\0"
_METADATA: Final = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")  # of these, the orientation
# Far more than any encoder writes: tables, and 64 KB a segment of profiles and camera makers' data.
_MAX_SEGMENTS: Final = 100_000


class TrimmedJpeg(NamedTuple):
    """A JPEG without what its decoder does not need.

    Attributes:
        data: the file.
        num_scans: how often the decoder goes over the pixels; 1 where it stops after the first.
    """

    data: bytes
    num_scans: int


def trim_jpeg(data: bytes) -> TrimmedJpeg:
    """Drop comments, malformed and unknown application segments and fill bytes.

    Kept are JFIF and Adobe segments and a color profile, which decide colors, and EXIF and XMP for
    the orientation. The pixels' data is kept as it is.

    Args:
        data: a whole file that begins as JPEG does.

    Raises:
        LimitError: more segments than any encoder writes.
        ValueError: no image data.
    """
    kept: list[bytes | memoryview] = [data[:2]]
    position = 2
    num_metadata = num_components = profile_bytes = 0
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
        if marker == _APP2 and segment.startswith(_PROFILE, 4):
            profile_bytes += len(segment)
        num_metadata += marker == _APP1 and segment.startswith(_METADATA, 4)
        if (
            _is_kept(marker, segment)
            and (marker != _APP1 or num_metadata <= _MAX_METADATA)
            and (marker != _APP2 or profile_bytes <= MAX_PROFILE_BYTES)
        ):
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
    if marker == _APP2:
        return segment.startswith(_PROFILE, 4) and len(segment) > 4 + len(_PROFILE) + 2
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
