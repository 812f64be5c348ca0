"""Checks how a TIFF is divided before its decoder, which cannot be stopped, begins.

libtiff reads one strip or tile after another, so what one of them may cost is bounded by its size,
and the whole by their number. Layout: TIFF 6.0, and BigTIFF.
"""

import re
from typing import IO, Final

from PIL import TiffImagePlugin

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
