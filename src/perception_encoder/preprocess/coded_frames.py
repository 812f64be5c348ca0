"""Counts the frames in coded video data and reads how large they are: AV1 and HEVC.

One image is one frame. Data that hides more of them costs their decoding, too. Layout: AV1
bitstream specification 5.3 to 5.5; ISO/IEC 23008-2, 7.3.1.
"""

from collections.abc import Iterator
from typing import Final

_SEQUENCE_HEADER: Final = 1
_FRAMES: Final = (3, 6)  # a frame's header alone, or with its data
_LAST_SLICE_TYPE: Final = 31


class _Bits:
    """Reads numbers of some bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, size: int) -> int:
        self._left -= size
        if self._left < 0:
            raise ValueError("the header of the coded data ends early")
        return self._number >> self._left & (1 << size) - 1


def av1_pixels(data: bytes) -> int:
    """Return how many pixels all frames of AV1 data have at most.

    Args:
        data: open bitstream units.
    """
    num_frames = area = 0
    for kind, content in _units(data):
        if kind == _SEQUENCE_HEADER:
            area = max(area, _sequence_area(content))
        num_frames += kind in _FRAMES
    return num_frames * area


def hevc_frames(data: bytes, length_bytes: int) -> int:
    """Return how many frames HEVC data has.

    Args:
        data: units, each behind its length.
        length_bytes: of a length.
    """
    num_frames = 0
    position = 0
    while position + length_bytes + 3 <= len(data):
        size = int.from_bytes(data[position : position + length_bytes], "big")
        position += length_bytes
        kind = data[position] >> 1 & 0x3F
        num_frames += kind <= _LAST_SLICE_TYPE and data[position + 2] >> 7
        position += size
    return num_frames


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        header = data[position]
        position += 1 + (header >> 2 & 1)
        size = len(data) - position
        if header >> 1 & 1:
            size, position = _leb128(data, position)
        yield header >> 3 & 15, data[position : position + min(size, 64)]
        position += size


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[position : position + 8]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    return value, position + 8


def _sequence_area(content: bytes) -> int:
    """Return the largest number of pixels that a sequence header allows a frame."""
    bits = _Bits(content)
    bits.read(4)  # profile, still image
    if bits.read(1):  # the short header of a still image
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return (bits.read(width_bits) + 1) * (bits.read(height_bits) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing
        bits.read(64)
        if bits.read(1):
            _skip_uvlc(bits)
        if bits.read(1):  # a decoder's model
            delay_bits = bits.read(5) + 1
            bits.read(42)
    has_delays = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_delays and bits.read(1):
            bits.read(4)


def _skip_uvlc(bits: _Bits) -> None:
    zeros = 0
    while not bits.read(1):
        zeros += 1
    bits.read(zeros if zeros < 32 else 0)
