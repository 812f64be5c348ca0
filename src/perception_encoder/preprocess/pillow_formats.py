"""Pillow's readers of TIFF and PPM, bounded: by the strips of a TIFF, by time for a PPM."""

import re
from collections.abc import Iterator
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PpmImagePlugin, TiffImagePlugin

from perception_encoder.preprocess.limits import MAX_SCANS, MAX_STRIPS, LimitError

_COMPRESSION: Final = 259
_BITS_PER_SAMPLE: Final = 258
_EXTRA_SAMPLES: Final = 338
_OFFSETS: Final = (273, 324)  # of strips, of tiles
_BYTE_COUNTS: Final = (279, 325)
_TILE_SIZE: Final = (322, 323)
_TYPE_BYTES: Final = {3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
_JPEG_COMPRESSIONS: Final = (6, 7)
_SCAN: Final = re.compile(rb"\xff\xda")
# A tile may reach beyond a small image, and byte counts beyond a small file.
_MAX_TILE_PIXELS: Final = 2**24
_SPARE_BYTES: Final = 2**26
_SPACES: Final = (b" ", b"\t", b"\n", b"\v", b"\f", b"\r")
_SPACE_CODES: Final = np.frombuffer(b"".join(_SPACES), np.uint8)
_BLOCK: Final = 2**20
_MAX_DIGITS: Final = 10
_MAX_VALUE: Final = 65_535


class TiffImageFile(TiffImagePlugin.TiffImageFile):
    """Pillow's reader, which checks the layout before it makes a list of strips."""

    def _setup(self) -> None:
        self._check_parts()
        super()._setup()
        # Of the other frames and of metadata nothing is wanted: loading would read both.
        self.is_animated = True

    @property
    def may_lack_alpha(self) -> bool:
        """Whether the last channel was taken for alpha though the file does not say that it is."""
        return _EXTRA_SAMPLES not in self.tag_v2

    def use(self, stream: IO[bytes]) -> None:
        """Read pixels from another stream of the same bytes: libtiff takes a file by its number."""
        self.fp = self._fp = stream

    def _check_parts(self) -> None:
        num_parts = max(self._count(tag) for tag in _OFFSETS)
        if num_parts > MAX_STRIPS:
            raise LimitError(f"{num_parts:,} strips or tiles, the limit is {MAX_STRIPS:,}")
        width, height = (self.tag_v2.get(tag, 0) for tag in _TILE_SIZE)
        if (
            isinstance(width, int)
            and isinstance(height, int)
            and width * height
            > max(_MAX_TILE_PIXELS, 4 * int(self.tag_v2.get(256, 0)) * int(self.tag_v2.get(257, 0)))
        ):
            raise LimitError(f"tiles of {width:,} × {height:,} pixels, larger than the image")
        if self.tag_v2.get(_COMPRESSION, 1) != 1:
            self._check_bytes(num_parts)

    def _check_bytes(self, num_parts: int) -> None:
        """Bound what is read and decompressed: parts may name the same bytes."""
        assert self.fp is not None
        num_bytes = self.fp.seek(0, 2)
        parts = [
            (offset, min(size, num_bytes))
            for starts, sizes in zip(_OFFSETS, _BYTE_COUNTS, strict=True)
            for offset, size in zip(self._numbers(starts), self._numbers(sizes), strict=False)
        ]
        read = sum(size for _, size in parts)
        if read > 2 * num_bytes + _SPARE_BYTES:
            raise LimitError(f"its strips or tiles have {read:,} bytes, the file {num_bytes:,}")
        if self.tag_v2.get(_COMPRESSION) not in _JPEG_COMPRESSIONS:
            return
        if self.tag_v2.get(_COMPRESSION) == _JPEG_COMPRESSIONS[0]:
            parts = [(0, num_bytes)]  # where the old kind has its data depends on who wrote it
        num_scans = 0
        for offset, size in parts:
            self.fp.seek(offset)
            num_scans += len(_SCAN.findall(self.fp.read(size)))
        if num_scans > MAX_SCANS + 4 * num_parts:
            raise LimitError(f"{num_scans:,} JPEG scans in {num_parts:,} strips or tiles")

    def _count(self, tag: int) -> int:
        """Return how many numbers a tag has, without reading them."""
        if tag not in self.tag_v2:
            return 0
        return len(self.tag_v2._tagdata.get(tag, b"")) // _TYPE_BYTES.get(
            self.tag_v2.tagtype.get(tag, 0), 1
        )

    def _numbers(self, tag: int) -> tuple[int, ...]:
        values = self.tag_v2.get(tag, ())
        values = values if isinstance(values, tuple) else (values,)
        return tuple(value for value in values if isinstance(value, int))


class PpmImageFile(PpmImagePlugin.PpmImageFile):
    """Pillow's reader with quicker decoders."""

    def load(self) -> Any:
        """Decode the image, once."""
        if self.tile and self.tile[0][0] in ("ppm", "ppm_plain"):
            decoder, _, offset, args = self.tile[0]
            assert self.fp is not None
            assert args is not None
            self.fp.seek(offset)
            largest = args[1] if isinstance(args, tuple) else 1
            count = self.width * self.height * len(self.getbands())
            if decoder == "ppm":
                values = _binary(self.fp, count, int(largest))
            elif self.mode == "1":
                values = _bits(self.fp, count)
            else:
                values = _numbers(self.fp, count)
            self._fill(values, int(largest))
        return super().load()

    def _fill(self, values: NDArray[Any], largest: int) -> None:
        if values.max(initial=0) > largest:
            raise ValueError(f"a value above the largest of {largest}")
        top = 65_535 if self.mode == "I" else 255
        scaled = np.rint(np.arange(largest + 1) / largest * top)
        if self.mode == "1":
            scaled = scaled[::-1]  # 1 is black
        levels = scaled.astype(np.int32 if self.mode == "I" else np.uint8)[values]
        rawmode = {"I": "I;32N", "1": "1;8"}.get(self.mode, self.mode)
        self.im = Image.frombytes(self.mode, self.size, levels.tobytes(), "raw", rawmode).im
        self.tile = []


def _binary(stream: IO[bytes], count: int, largest: int) -> NDArray[Any]:
    dtype = np.dtype(np.uint8 if largest < 256 else ">u2")
    data = stream.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise OSError("image file is truncated")
    values: NDArray[Any] = np.frombuffer(data, dtype)
    return values.clip(max=largest)


def _bits(stream: IO[bytes], count: int) -> NDArray[Any]:
    return _collect((_digits(block) for block in _blocks(stream)), count)


def _numbers(stream: IO[bytes], count: int) -> NDArray[Any]:
    return _collect((_parse(block) for block in _blocks(stream)), count)


def _collect(parts: Iterator[NDArray[Any]], count: int) -> NDArray[Any]:
    values = [next(parts, np.empty(0, np.uint8))]
    missing = count - len(values[0])
    while missing > 0 and (part := next(parts, None)) is not None:
        values.append(part)
        missing -= len(part)
    if missing > 0:
        raise OSError("image file is truncated")
    return np.concatenate(values)[:count]


def _blocks(stream: IO[bytes]) -> Iterator[NDArray[np.uint8]]:
    """Yield the text in blocks that end between numbers, with spaces in place of comments."""
    rest = b""
    in_comment = False
    while read := stream.read(_BLOCK):
        text = rest + read
        cut = max(text.rfind(space) for space in _SPACES)
        if len(text) - cut > _MAX_DIGITS:  # no number, or a comment
            cut = len(text)
        rest = text[cut:]
        block, in_comment = _without_comments(np.frombuffer(text[:cut], np.uint8), in_comment)
        yield block
    yield _without_comments(np.frombuffer(rest, np.uint8), in_comment)[0]


def _without_comments(block: NDArray[np.uint8], in_comment: bool) -> tuple[NDArray[np.uint8], bool]:
    """Blank comments, which reach to the end of their line; say whether one goes on after it."""
    starts = block == ord("#")
    if not len(block) or not (in_comment or starts.any()):
        return block, in_comment
    places = np.arange(1, len(block) + 1)
    last_start = np.maximum.accumulate(np.where(starts, places, int(in_comment)))
    is_end = (block == ord("\n")) | (block == ord("\r"))
    is_comment = last_start > np.maximum.accumulate(np.where(is_end, places, 0))
    return np.where(is_comment, np.uint8(ord(" ")), block), bool(is_comment[-1])


def _digits(block: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each digit as a number: plain bitmaps need no spaces."""
    return block[~np.isin(block, _SPACE_CODES)] - ord("0")


def _parse(characters: NDArray[np.uint8]) -> NDArray[np.uint16]:
    is_digit = (characters - ord("0")) < 10  # wraps around below "0"
    if not (is_digit | np.isin(characters, _SPACE_CODES)).all():
        raise ValueError("a character that is neither a digit nor a space")
    edges = np.flatnonzero(np.diff(is_digit, prepend=False, append=False))
    ends = edges[1::2]
    lengths = ends - edges[::2]
    longest = int(lengths.max(initial=0))
    if longest > _MAX_DIGITS:
        raise ValueError(f"a number of {longest} digits")
    values = np.zeros(len(ends), np.int64)
    for place in range(longest):
        has_place = lengths > place
        digits = characters[ends[has_place] - 1 - place] - ord("0")
        values[has_place] += digits.astype(np.int64) * 10**place
    if values.max(initial=0) > _MAX_VALUE:
        raise ValueError(f"a number above {_MAX_VALUE}")
    return values.astype(np.uint16)
