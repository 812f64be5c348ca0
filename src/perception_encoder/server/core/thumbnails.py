"""Thumbnails of indexes' images, made once and stored on disk.

A thumbnail is named by its row's content, size and time, so a changed image gets a new one. A
digest is stored behind it, so that a damaged thumbnail is not served.
"""

import contextlib
import hashlib
import io
import logging
import tempfile
import threading
from pathlib import Path
from typing import Final

from PIL import Image

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageError, ImageUnreadableError
from perception_encoder.index import Row
from perception_encoder.index.storage import is_remote
from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess.files import read_image_file
from perception_encoder.preprocess.transforms import to_rgb, turn_upright
from perception_encoder.sources import StoredImage, open_image, read_image

logger = logging.getLogger(__name__)

SIZES: Final = (128, 256, 512, 1024, 2048)
"""Longest sides that copies are made in, pixels; others are brought up to the next."""

CONTENT_TYPE: Final = "image/jpeg"

_QUALITY: Final = 82
_DIGEST_BYTES: Final = 16
_MAX_BYTES: Final = 16 << 20  # of a copy; 2048 x 2048 pixels have 12 MB before they are compressed


class Thumbnails:
    """Makes, keeps and returns copies. May be called from any thread.

    Args:
        folder: where copies are kept; None makes them anew each time.
        max_pixels: larger images are refused from their headers.
        allow_remote: also of images that lie behind a network.
        num_at_once: images decoded at the same time, so that memory stays bounded.
    """

    def __init__(
        self, folder: Path | None, *, max_pixels: int, allow_remote: bool, num_at_once: int = 4
    ) -> None:
        self._folder = folder
        self._max_pixels = max_pixels
        self._allow_remote = allow_remote
        self._has_warned = False
        self._decoding = threading.BoundedSemaphore(num_at_once)

    def get(self, row: Row, side: int) -> bytes:
        """Return a JPEG of a row's image that fits a square.

        Args:
            row: of an index.
            side: of the square, pixels; brought up to the next of `SIZES`.

        Raises:
            ImageError: the image cannot be read or used.
        """
        side = next((size for size in SIZES if size >= side), SIZES[-1])
        path = self._path(row, side)
        if path is not None and (kept := _read_kept(path)) is not None:
            return kept
        with self._decoding:
            content = self._make_thumbnail(self.original(row), side, row.member or row.uri)
        if path is not None:
            self._store(path, content)
        return content

    def original(self, row: Row) -> bytes:
        """Return a row's image as it is stored.

        Raises:
            ImageError: it cannot be read, or lies behind a network and may not be brought.
        """
        self._check_place(row)
        return read_image(
            row.uri, row.member, row.offset, row.bytes, allow_network=self._allow_remote
        )

    def open_original(self, row: Row) -> StoredImage:
        """Open a row's image as it is stored, to be read part by part.

        What can only be read whole waits in a temporary file, not in memory: a client may take
        minutes for it.

        Raises:
            ImageError: as `original`.
            OSError: there is no room for a temporary file.
        """
        self._check_place(row)
        opened = open_image(row.uri, row.member, row.offset)
        if opened is not None:
            return opened
        content = self.original(row)
        with contextlib.ExitStack() as closed_on_error:
            file = closed_on_error.enter_context(tempfile.TemporaryFile())
            file.write(content)
            file.flush()
            closed_on_error.pop_all()
        return StoredImage(file, 0, len(content), row.member or row.uri)

    def _check_place(self, row: Row) -> None:
        if not self._allow_remote and is_remote(row.uri):
            raise ImageUnreadableError(
                f"{row.uri}: lies behind a network; this server shows local images only",
                item=row.uri,
            )

    def _make_thumbnail(self, data: bytes, side: int, item: str) -> bytes:
        image = decode_image(data, max_pixels=self._max_pixels, item=item)
        rgb = to_rgb(turn_upright(image), item=item)
        rgb.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        out = io.BytesIO()
        rgb.save(out, "JPEG", quality=_QUALITY, optimize=True)
        return out.getvalue()

    def _store(self, path: Path, content: bytes) -> None:
        """Store a copy so that others see it whole or not at all; failing only costs time."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_dir():
                path.unlink(missing_ok=True)  # a damaged copy, or a pipe that nobody reads
            with atomic_write(path) as temporary:
                temporary.write_bytes(content + _digest(content))
        except OSError as err:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "thumbnails cannot be kept in %s (%s); they are made anew each time",
                    self._folder,
                    err.strerror or err,
                )

    def _path(self, row: Row, side: int) -> Path | None:
        if self._folder is None:
            return None
        content = row.sha256 or f"{row.uri}\0{row.member}\0{row.bytes}\0{row.mtime}"
        name = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        return self._folder / str(side) / name[:2] / f"{name}.jpg"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _read_kept(path: Path) -> bytes | None:
    """Return a stored copy; None where there is none, or something else in its place."""
    try:
        stored = read_image_file(path, item=path.name, max_bytes=_MAX_BYTES)
    except ImageError:
        return None
    content, digest = stored[:-_DIGEST_BYTES], stored[-_DIGEST_BYTES:]
    return content if content and _digest(content) == digest else None
