"""Limits on the cost of decoding one image.

Sizes in headers are checked before anything is decoded. Other costs are bounded by processor time:
decoders read their data in steps, and a step past the limit fails.
"""

import io
import time
from typing import IO, Final

from perception_encoder.errors import ImageTooLargeError

MAX_SIDE: Final = 1_000_000
"""Of width and height. Each row costs memory of its own, however short it is; JPEG, GIF and WebP
end at 65,535."""

MAX_SCANS: Final = 100
"""How often a JPEG may go over its pixels. Encoders write 10, a few of them up to 64."""

MAX_STRIPS: Final = 2**18
"""Strips or tiles of a TIFF: 178 megapixels in tiles of 32 × 32 are fewer."""

_BASE_SECONDS: Final = 5.0
# A megapixel takes 0.015 s as JPEG and 0.06 s as PNG or AVIF on a slow core, most as JPEG 2000.
_SECONDS_PER_PIXEL: Final = 0.15e-6
# Reads of a few bytes are cheap and many, so that asking for the time at each would cost more.
_SMALL_READ: Final = 256
_SMALL_READS_A_CHECK: Final = 64


class LimitError(Exception):
    """An image costs more than a limit; says which. `decode_stream` makes an ImageError of it."""


def max_seconds(num_pixels: int) -> float:
    """Return how much processor time decoding so many pixels may take."""
    return _BASE_SECONDS + num_pixels * _SECONDS_PER_PIXEL


def check_size(size: tuple[int, int], *, max_pixels: int, item: str) -> None:
    """Raise ImageTooLargeError for an image of more pixels or a longer side than the limits."""
    width, height = size
    num_pixels = width * height
    if num_pixels > max_pixels:
        raise ImageTooLargeError(
            f"{item}: {width} × {height} = {num_pixels} pixels, the limit is "
            f"{max_pixels}; scale it down, or, if you trust the source, open the model with a "
            "larger max_pixels",
            item=item,
        )
    if max(size) > MAX_SIDE:
        raise ImageTooLargeError(
            f"{item}: {width} × {height} pixels, the limit for one side is "
            f"{MAX_SIDE:,}; cut it into parts",
            item=item,
        )


class LimitedStream:
    """A seekable stream for one decoder in one thread. Reading from it fails once time is up.

    The time is the processor's and this thread's: a slow disk or a busy machine takes none of it.

    Args:
        stream: what is read.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._started = time.thread_time()
        self._seconds = max_seconds(0)
        self._small_reads = 0
        self.is_over = False
        """Whether the time was up: decoders in C hide the error that reading raised."""
        self.use(stream)

    def use(self, stream: IO[bytes]) -> None:
        """Go on with another stream."""
        self.stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def allow(self, num_pixels: int) -> None:
        """Set the limit for an image of a size, once it is known."""
        self._seconds = max_seconds(num_pixels)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as the stream does.

        Raises:
            LimitError: the time is up.
        """
        if size is not None and 0 <= size < _SMALL_READ:
            self._small_reads += 1
            if self._small_reads % _SMALL_READS_A_CHECK:
                return self.stream.read(size)
        self.check()
        return self.stream.read(-1 if size is None else size)

    def check(self) -> None:
        """Raise LimitError if the time is up."""
        if time.thread_time() - self._started > self._seconds:
            self.is_over = True
            raise self.error()

    def error(self) -> LimitError:
        """Make the error for a time that is up."""
        return LimitError(
            f"decoding takes more than {self._seconds:.0f} seconds of processor time, the limit "
            "for its size"
        )


def whole(stream: IO[bytes]) -> bytes:
    """Return all bytes of a stream, from its beginning, without a copy where they are in memory."""
    if type(stream) is io.BytesIO:
        return stream.getvalue()
    stream.seek(0)
    return stream.read()
