"""Prepares a PNG file for its decoder: keeps the chunks that decide pixels and orientation.

Pillow reads every chunk, and one it does not like makes the image unusable: a long text, a profile
that is a zip bomb, a wrong checksum of a comment. Viewers pass over these, as the format tells them
to. Layout: https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from perception_encoder.preprocess.limits import LimitError

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

    Of animations the image that viewers without animations show is kept.

    Args:
        data: a whole file that begins as PNG does.

    Raises:
        LimitError: more chunks than any encoder writes.
        ValueError: no image data.
    """
    kept: dict[bytes, bytes | memoryview] = {}
    metadata: list[memoryview] = []
    pixels: list[memoryview] = []
    is_after = False  # the image data is one run of chunks
    for chunk in _chunks(data):
        if chunk.kind == b"IDAT":
            if not is_after:
                pixels.append(chunk.content)
            continue
        is_after = bool(pixels)
        if _tells_orientation(chunk) and len(metadata) < _MAX_METADATA:
            metadata.append(chunk.whole)
        elif chunk.kind in (b"IHDR", b"PLTE", b"tRNS") and not is_after:
            content = _transparency(chunk, kept) if chunk.kind == b"tRNS" else chunk.whole
            if content is not None:
                kept.setdefault(chunk.kind, content)
    if not pixels:
        raise ValueError("no image data")
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
