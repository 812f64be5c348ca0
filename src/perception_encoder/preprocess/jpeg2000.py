"""Check a JPEG 2000 image before decoding: memory grows with what its header announces.

Layout: ITU-T T.800, annex A (the code stream) and annex I (the file).
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from PIL import Image

from perception_encoder.preprocess.limits import LimitError

# Of these OpenJPEG keeps 10 KB and 0.5 KB each. 178 megapixels have fewer tiles of 128 × 128, and
# fewer precincts of 64 × 64 in three channels.
_MAX_TILES: Final = 2**14
_MAX_PRECINCTS: Final = 2**18
_MAX_TILE_PARTS: Final = 2**16

_SIZE: Final = 0x51
_CODING: Final = 0x52
_CHANNEL_CODING: Final = 0x53
_TILE_PART: Final = 0x90
_DATA: Final = 0x93
_END: Final = 0xD9
_STREAM_START: Final = b"\xff\x4f\xff\x51"
_OPACITY: Final = (1, 2)


class Box(NamedTuple):
    """One box.

    Attributes:
        kind: its four letters.
        start: where its content begins.
        end: where its content ends, by its length; beyond the data where that is cut.
    """

    kind: bytes
    start: int
    end: int


def iter_boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes of a range in order, up to one whose length is none.

    Args:
        data: the file.
        start: where the first box begins.
        end: of the range; None for the data's.
    """
    limit = len(data) if end is None else min(end, len(data))
    while start + 8 <= limit:
        size = int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        content = start + 8
        if size == 1:
            size = int.from_bytes(data[content : content + 8], "big")
            content += 8
        elif size == 0:
            size = limit - start
        if start + size < content:
            return
        yield Box(kind, content, start + size)
        start += size


def check_jpeg2000(data: bytes) -> None:
    """Raise LimitError for more tiles or precincts than the limits."""
    start = _stream_start(data)
    width, height, tile_width, tile_height, num_channels = _read_size(data, start)
    num_tiles = _divide_up(width, max(tile_width, 1)) * _divide_up(height, max(tile_height, 1))
    if num_tiles > _MAX_TILES:
        raise LimitError(f"{num_tiles:,} tiles, the limit is {_MAX_TILES:,}")
    tile = (min(tile_width, width), min(tile_height, height))
    for segment in _coding_segments(data, start, num_channels):
        num_precincts = num_tiles * num_channels * _num_precincts(segment, tile)
        if num_precincts > _MAX_PRECINCTS:
            raise LimitError(f"{num_precincts:,} precincts, the limit is {_MAX_PRECINCTS:,}")


def drop_false_alpha(image: Image.Image, data: bytes) -> Image.Image:
    """Drop a last channel that Pillow took for alpha where the file says that it is none.

    Args:
        image: decoded.
        data: of its file.
    """
    opaque = {"LA": "L", "RGBA": "RGB"}.get(image.mode)
    if opaque is None or data.startswith(_STREAM_START) or _has_alpha(data, len(image.mode) - 1):
        return image
    return image.convert(opaque)


def _has_alpha(data: bytes, channel: int) -> bool:
    for header in iter_boxes(data):
        if header.kind != b"jp2h":
            continue
        for box in iter_boxes(data, header.start, header.end):
            if box.kind == b"cdef":
                content = data[box.start + 2 : box.end]
                entries = struct.iter_unpack(">HHH", content[: len(content) // 6 * 6])
                return any(number == channel and kind in _OPACITY for number, kind, _ in entries)
    return False  # without this box all channels are colors


def _stream_start(data: bytes) -> int:
    if data.startswith(_STREAM_START):
        return 0
    for box in iter_boxes(data):
        if box.kind == b"jp2c" and data.startswith(_STREAM_START, box.start):
            return box.start
    raise ValueError("no image data")


def _read_size(data: bytes, start: int) -> tuple[int, int, int, int, int]:
    right, bottom, left, top, tile_width, tile_height, _, _, num_channels = struct.unpack_from(
        ">8IH", data, start + 8
    )
    return right - left, bottom - top, tile_width, tile_height, num_channels


def _coding_segments(data: bytes, start: int, num_channels: int) -> Iterator[bytes]:
    """Yield what stands behind the styles of all coding segments: levels, blocks, precincts."""
    position = start + 2
    part_end = 0
    num_parts = 0
    while position + 4 <= len(data):
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position] != 0xFF or marker == _END:
            return
        if marker == _DATA:
            if part_end <= position:
                return
            position = part_end
            continue
        content = data[position + 4 : position + 2 + size]
        if marker == _TILE_PART:
            num_parts += 1
            if num_parts > _MAX_TILE_PARTS:
                raise LimitError(f"more than {_MAX_TILE_PARTS:,} parts of tiles")
            length = int.from_bytes(content[2:6], "big")
            part_end = position + length if length else len(data)
        elif marker == _CODING:
            yield content[:1] + content[5:]
        elif marker == _CHANNEL_CODING:
            yield content[1 + (num_channels > 256) :]
        position += 2 + max(size, 2)


def _num_precincts(segment: bytes, tile: tuple[int, int]) -> int:
    """Count the precincts of one channel of one tile."""
    if len(segment) < 6:
        return 0
    levels = min(segment[1], 32)
    sizes = segment[6 : 7 + levels] if segment[0] & 1 else b""
    count = 0
    for resolution in range(levels + 1):
        size = sizes[resolution] if resolution < len(sizes) else 0xFF
        scale = 2 ** (levels - resolution)
        width, height = (_divide_up(side, scale) for side in tile)
        count += _divide_up(width, 2 ** (size & 15)) * _divide_up(height, 2 ** (size >> 4))
    return count


def _divide_up(number: int, divisor: int) -> int:
    return -(-number // divisor)
