"""Images of requests become encoded bytes; images of indexes become thumbnails, stored on disk."""

import asyncio
import contextlib
import hashlib
import io
import logging
import re
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import (
    ImageEmptyError,
    ImageError,
    ImageReferenceError,
    ImageUnreadableError,
)
from perception_encoder.index import Row
from perception_encoder.index.storage import is_remote
from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess.crops import CroppedImage, split_crop
from perception_encoder.preprocess.files import read_image_file
from perception_encoder.preprocess.image_strings import decode_base64, decode_data_uri, trim
from perception_encoder.preprocess.transforms import to_rgb, turn_upright
from perception_encoder.server.core.pools import gather_all, release_frames
from perception_encoder.sources import StoredImage, open_image, read_image

logger = logging.getLogger(__name__)

SIZES: Final = (128, 256, 512, 1024, 2048)
"""Longest sides that copies are made in, pixels; others are brought up to the next."""

CONTENT_TYPE: Final = "image/jpeg"

_QUALITY: Final = 82
_DIGEST_BYTES: Final = 16
_MAX_BYTES: Final = 16 << 20  # of a copy; 2048 x 2048 pixels have 12 MB before they are compressed
_LOADED_AT_ONCE: Final = 8  # images of a request: half of those that are fetched at once
_MAX_LOADED_BYTES: Final = 512 << 20
"""Of all images of a request. URLs are short: a body of some kilobytes could name gigabytes."""

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BEGINNINGS: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"\0\0\0\x0cjP  ", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/j2c"),
    (b"\xff\x0a", "image/jxl"),
    (b"\0\0\0\x0cJXL ", "image/jxl"),
    (b"FUJIFILMCCD-RAW", "image/x-fuji-raf"),
    (b"IIU\0", "image/x-panasonic-rw2"),
    *((start, "image/x-olympus-orf") for start in (b"IIRO", b"IIRS", b"MMOR")),
    *((f"P{digit}".encode(), "image/x-portable-anymap") for digit in range(1, 7)),
)
_BRANDS: Final = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"crx ": "image/x-canon-cr3",
}
_HEIF: Final = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)

LoadedImage: TypeAlias = bytes | CroppedImage
"""An encoded image, or a part of one."""

ENOUGH: Final = 32
"""Bytes that are enough to detect the media type of an image."""


class Fetcher(Protocol):
    """Fetches images from the web."""

    async def fetch(self, url: str, *, item: str) -> bytes:
        """Return what a URL answers with.

        Raises:
            ImageFetchError: it could not be fetched, or may not be.
        """
        ...

    async def close(self) -> None:
        """End all connections."""


class ImageLoader:
    """Loads the encoded bytes of images that requests name.

    Args:
        fetcher: fetches URLs; None refuses them.
        max_bytes: of one encoded image.
    """

    def __init__(self, fetcher: Fetcher | None, *, max_bytes: int) -> None:
        self._fetcher = fetcher
        self._max_bytes = max_bytes

    async def load(self, reference: str | bytes, *, item: str) -> LoadedImage:
        """Return an image's encoded bytes.

        Args:
            reference: bytes as they came in a multipart body; or a data URI, a URL, or base64
                (standard or URL-safe, with or without padding and line breaks). A string may end in
                the box of a part: `#xywh=10,20,200,150`.
            item: names the image in errors, such as "image 3".

        Raises:
            ImageValueError: what should be the box is none.
            ImageReferenceError: not one of these, or too large; also for a URL where they are off.
            ImageFetchError: the URL could not be fetched.
            ImageEmptyError: zero bytes.
        """
        box = None
        if isinstance(reference, str):
            reference, box = split_crop(reference, item=item)
        data = reference if isinstance(reference, bytes) else await self._read(reference, item)
        if not data:
            raise ImageEmptyError(f"{item}: zero bytes; send the image again", item=item)
        if len(data) > self._max_bytes:
            raise ImageReferenceError(
                f"{item}: {len(data):,} bytes are more than the limit of {self._max_bytes:,}",
                item=item,
                reason="too large",
            )
        return data if box is None else CroppedImage(data, box)

    async def load_all(
        self, references: Sequence[str | bytes], names: Sequence[str]
    ) -> list[LoadedImage | ImageError]:
        """Return the encoded images of a request, in order; an error stands for a bad one.

        Args:
            references: as in `load`.
            names: of the images, in errors.
        """
        if len(references) == 1:  # most requests: no task needed
            return [await self._load_or_error(references[0], names[0])]
        turns = asyncio.Semaphore(_LOADED_AT_ONCE)
        left = _MAX_LOADED_BYTES

        async def load(reference: str | bytes, name: str) -> LoadedImage | ImageError:
            nonlocal left
            async with turns:
                if left >= 0:
                    loaded = await self._load_or_error(reference, name)
                    data = loaded.image if isinstance(loaded, CroppedImage) else loaded
                    left -= len(data) if isinstance(data, bytes) else 0
            if left >= 0:
                return loaded
            return ImageReferenceError(
                f"{name}: the images of one request may have {_MAX_LOADED_BYTES:,} bytes; "
                "send fewer at a time",
                item=name,
                reason="too large",
            )

        return await gather_all(map(load, references, names))

    async def _load_or_error(self, reference: str | bytes, name: str) -> LoadedImage | ImageError:
        try:
            return await self.load(reference, item=name)
        except ImageError as err:
            release_frames(err)
            return err

    async def close(self) -> None:
        """End all connections."""
        if self._fetcher is not None:
            await self._fetcher.close()

    async def _read(self, reference: str, item: str) -> bytes:
        reference = trim(reference)
        if (data := decode_data_uri(reference, item=item)) is not None:
            return data
        if _URL.match(reference):
            if self._fetcher is None:
                raise ImageReferenceError(
                    f"{item}: this server fetches no URLs; send the image itself, as base64 "
                    "or as a file",
                    item=item,
                    reason="URLs are off",
                )
            return await self._fetcher.fetch(reference, item=item)
        return decode_base64(reference, item=item)


def name_images(count: int) -> list[str]:
    """Return what errors call the images of a request, by their positions."""
    return [f"image {position}" for position in range(count)]


def detect_content_type(data: bytes) -> str | None:
    """Return the media type of an image that this package reads; None for anything else."""
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "image/heic" if data[8:12] in _HEIF else None)
    return None


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
        rgb = to_rgb(turn_upright(image), item=item, max_side=side)
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
