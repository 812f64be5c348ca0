"""Check what an AVIF or HEIC file makes its decoder decode, before decoding: it cannot be stopped.

The image may be a grid of others, named repeatedly or larger than announced, with further images
for transparency. The coded data (AV1, HEVC) may hide additional frames, so these are counted.
Layout: ISO/IEC 14496-12, 8.11; 23008-12; AV1 bitstream specification 5.3 to 5.5;
ISO/IEC 23008-2, 7.3.1.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from perception_encoder.preprocess.jpeg2000 import Box, iter_boxes
from perception_encoder.preprocess.limits import LimitError

_SEQUENCE_HEADER: Final = 1
_FRAMES: Final = (3, 6)  # a frame's header alone, or with its data
_LAST_SLICE_TYPE: Final = 31
# A grid is decoded, put together, and may have transparency of its own; layers are up to 4.
_MAX_TIMES: Final = 8
_SPARE_PIXELS: Final = 2**24  # tiles reach beyond a small image
_MAX_DEPTH: Final = 8
_MAX_REFERENCES: Final = 2**16
_MAX_EXTENTS: Final = 2**16  # their fields may take no bytes of the file
_METADATA_KINDS: Final = (b"Exif", b"application/rdf+xml")
_MAX_NAME_BYTES: Final = 1024
_SAMPLE_HEADER: Final = 8  # of the list of sample entries, before the first


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


@dataclass
class _Item:
    kind: bytes = b""
    content_type: bytes = b""  # of kind "mime"
    extents: list[tuple[int, int]] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)  # what it is put together of
    beside: list[int] = field(default_factory=list)  # its transparency
    properties: list[Box] = field(default_factory=list)


def check_heif(data: bytes) -> None:
    """Raise LimitError where much more is decoded than the image has pixels.

    Raises:
        ValueError: lists that cannot be read.
    """
    num_lists = 0
    try:
        for box in iter_boxes(data):
            if box.kind == b"meta":
                num_lists += 1
                if num_lists > 1:
                    raise LimitError("more than one list of items")
                _Items(data, box).check()
            elif box.kind == b"moov":
                _check_tracks(data, box)
    except (struct.error, IndexError) as err:
        raise ValueError(f"the list of its images is damaged ({err})") from err


def iter_metadata(data: bytes, max_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the metadata items of a file: "Exif" or "application/rdf+xml", and the content.

    Args:
        data: the file.
        max_bytes: of one item; larger ones are left out.

    Raises:
        LimitError: lists of more than the limits.
        ValueError: lists that cannot be read.
    """
    try:
        for box in iter_boxes(data):
            if box.kind == b"meta":
                yield from _Items(data, box).contents(max_bytes)
                return
    except (struct.error, IndexError) as err:
        raise ValueError(f"the list of its items is damaged ({err})") from err


def find_nclx(data: bytes) -> tuple[int, int] | None:
    """Return the color primaries and the transfer characteristics of the image, as in H.273.

    Args:
        data: of a file that `check_heif` has checked.

    Returns:
        None where the file does not say.
    """
    try:
        for box in iter_boxes(data):
            if box.kind == b"meta":
                return _Items(data, box).nclx()
    except (struct.error, IndexError, ValueError):
        return None
    return None


class _Items:
    """The items of a file and what they refer to."""

    def __init__(self, data: bytes, meta: Box) -> None:
        self._data = data
        self._items: dict[int, _Item] = {}
        self._costs: dict[int, int] = {}
        self._primary = 0
        self._num_extents = 0
        self._idat = (0, 0)
        readers = {
            b"pitm": self._read_primary, b"iinf": self._read_kinds, b"iloc": self._read_places,
            b"iref": self._read_references, b"iprp": self._read_properties,
        }  # fmt: skip
        for box in iter_boxes(data, meta.start + 4, meta.end):
            if box.kind == b"idat":
                self._idat = (box.start, box.end)
            elif (reader := readers.get(box.kind)) is not None:
                reader(box)

    def check(self) -> None:
        """Raise LimitError where the primary item costs more than its size explains."""
        pixels = self._cost(self._primary, _MAX_DEPTH)
        _check_pixels(pixels, self._area(self._item(self._primary)))

    def nclx(self) -> tuple[int, int] | None:
        """Return what `find_nclx` does."""
        for box in self._item(self._primary).properties:
            if box.kind == b"colr" and self._data[box.start : box.start + 4] == b"nclx":
                primaries, transfer = struct.unpack_from(">HH", self._data, box.start + 4)
                return primaries, transfer
        return None

    def contents(self, max_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield what `iter_metadata` does."""
        for item in self._items.values():
            kind = item.content_type if item.kind == b"mime" else item.kind
            if kind in _METADATA_KINDS and sum(size for _, size in item.extents) <= max_bytes:
                yield kind, self._content(item)

    def _item(self, number: int) -> _Item:
        return self._items.setdefault(number, _Item())

    def _cost(self, number: int, depth: int) -> int:
        """Return how many pixels are decoded for an item, with all that it refers to."""
        if depth == 0:
            raise LimitError(f"images of images, more than {_MAX_DEPTH} deep")
        if number not in self._costs:
            item = self._item(number)
            others = sum(self._cost(part, depth - 1) for part in item.parts + item.beside)
            self._costs[number] = self._own_cost(item) + others
        return self._costs[number]

    def _own_cost(self, item: _Item) -> int:
        area = self._area(item)
        if item.kind == b"av01":
            return max(area, av1_pixels(self._content(item)))
        if item.kind in (b"hvc1", b"hev1"):
            lengths = [self._data[p.start + 21] & 3 for p in item.properties if p.kind == b"hvcC"]
            length_bytes = lengths[0] + 1 if lengths else 4
            return area * max(1, hevc_frames(self._content(item), length_bytes))
        return area

    def _area(self, item: _Item) -> int:
        for box in item.properties:
            if box.kind == b"ispe":
                width, height = struct.unpack_from(">II", self._data, box.start + 4)
                return int(width * height)
        return 0

    def _content(self, item: _Item) -> bytes:
        num_bytes = len(self._data)
        if sum(max(0, min(size, num_bytes - start)) for start, size in item.extents) > num_bytes:
            raise LimitError("an image of more bytes than the file")
        return b"".join(self._data[start : start + size] for start, size in item.extents)

    def _read_primary(self, box: Box) -> None:
        is_long = self._data[box.start] > 0
        (self._primary,) = struct.unpack_from(">I" if is_long else ">H", self._data, box.start + 4)

    def _read_kinds(self, box: Box) -> None:
        start = box.start + (8 if self._data[box.start] else 6)
        for entry in iter_boxes(self._data, start, box.end):
            version = self._data[entry.start]
            if entry.kind == b"infe" and version >= 2:
                layout = ">IH4s" if version > 2 else ">HH4s"
                number, _, kind = struct.unpack_from(layout, self._data, entry.start + 4)
                item = self._item(number)
                item.kind = kind
                if kind == b"mime":
                    name_start = entry.start + 4 + struct.calcsize(layout)
                    texts = self._data[name_start : entry.end][:_MAX_NAME_BYTES].split(b"\0")
                    item.content_type = texts[1] if len(texts) > 1 else b""

    def _read_places(self, box: Box) -> None:
        version = self._data[box.start]
        number_bytes = 4 if version > 1 else 2
        sizes = struct.unpack_from(">BB", self._data, box.start + 4)
        offset_bytes, size_bytes, base_bytes, index_bytes = (
            part for size in sizes for part in (size >> 4, size & 15)
        )
        read = _Reader(self._data, box.start + 6, box.end).read
        for _ in range(read(number_bytes)):
            item = self._item(read(number_bytes))
            method = read(2) & 15 if version else 0
            read(2)
            base = read(base_bytes) + (self._idat[0] if method == 1 else 0)
            count = read(2)
            self._num_extents += count
            if self._num_extents > _MAX_EXTENTS:
                raise LimitError(f"items of more than {_MAX_EXTENTS:,} parts")
            for _ in range(count):
                read(index_bytes if version else 0)
                start = base + read(offset_bytes)
                item.extents.append((start, read(size_bytes) or len(self._data) - start))

    def _read_references(self, box: Box) -> None:
        number_bytes = 4 if self._data[box.start] else 2
        for entry in iter_boxes(self._data, box.start + 4, box.end):
            read = _Reader(self._data, entry.start, entry.end).read
            source = read(number_bytes)
            targets = [read(number_bytes) for _ in range(min(read(2), _MAX_REFERENCES))]
            if entry.kind == b"dimg":
                self._item(source).parts += targets
            elif entry.kind == b"auxl":
                for target in targets:
                    self._item(target).beside.append(source)

    def _read_properties(self, box: Box) -> None:
        found: list[Box] = []
        for entry in iter_boxes(self._data, box.start, box.end):
            if entry.kind == b"ipco":
                found = list(iter_boxes(self._data, entry.start, entry.end))
            elif entry.kind == b"ipma":
                self._assign(entry, found)

    def _assign(self, box: Box, found: list[Box]) -> None:
        version, flags = self._data[box.start], self._data[box.start + 3]
        read = _Reader(self._data, box.start + 4, box.end).read
        for _ in range(read(4)):
            item = self._item(read(4 if version else 2))
            for _ in range(read(1)):
                index = read(2) & 0x7FFF if flags & 1 else read(1) & 0x7F
                item.properties += found[index - 1 : index] if index else []


class _Reader:
    """Reads one number after another within a range."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self._position = start
        self._end = min(end, len(data))

    def read(self, size: int) -> int:
        start = self._position
        self._position += size
        if self._position > self._end:
            raise ValueError("the list of its images ends early")
        return int.from_bytes(self._data[start : self._position], "big")


def _check_tracks(data: bytes, movie: Box) -> None:
    """Check the first frame of each track of an animation."""
    for table in _within(data, movie, b"trak", b"mdia", b"minf", b"stbl"):
        boxes = {box.kind: box for box in iter_boxes(data, table.start, table.end)}
        if not {b"stsd", b"stsz"} <= boxes.keys():
            continue
        entry = next(iter_boxes(data, boxes[b"stsd"].start + _SAMPLE_HEADER), None)
        sample = _first_sample(data, boxes)
        if entry is None:
            continue
        width, height = struct.unpack_from(">HH", data, entry.start + 24)
        area = width * height
        pixels = av1_pixels(sample) if entry.kind == b"av01" else area * hevc_frames(sample, 4)
        _check_pixels(pixels, area)


def _first_sample(data: bytes, boxes: dict[bytes, Box]) -> bytes:
    read_size = _Reader(data, boxes[b"stsz"].start + 4, len(data)).read
    size = read_size(4)
    count = read_size(4)
    if size == 0 and count > 0:
        size = read_size(4)
    start = 0
    for kind, number_bytes in ((b"stco", 4), (b"co64", 8)):
        if kind in boxes:
            start = _Reader(data, boxes[kind].start + 8, len(data)).read(number_bytes)
    return data[start : start + size]


def _within(data: bytes, box: Box, *path: bytes) -> Iterator[Box]:
    if not path:
        yield box
        return
    for inner in iter_boxes(data, box.start, box.end):
        if inner.kind == path[0]:
            yield from _within(data, inner, *path[1:])


def _check_pixels(pixels: int, area: int) -> None:
    limit = _MAX_TIMES * area + _SPARE_PIXELS
    if pixels > limit:
        raise LimitError(
            f"{pixels:,} pixels are decoded for an image of {area:,}, the limit is {limit:,}"
        )
