"""Images of requests: base64, data URIs and, where enabled, URLs become encoded bytes.

All APIs use it. It reads no paths of this machine and no pickles, and decodes no images.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final, Protocol

from perception_encoder.errors import ImageEmptyError, ImageError, ImageReferenceError
from perception_encoder.preprocess.image_strings import decode_base64, decode_data_uri, trim
from perception_encoder.server.core.pools import gather_all, release_frames

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
    *((f"P{digit}".encode(), "image/x-portable-anymap") for digit in range(1, 7)),
)
_BRANDS: Final = {b"avif": "image/avif", b"avis": "image/avif"}
_HEIF: Final = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)

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

    async def load(self, reference: str | bytes, *, item: str) -> bytes:
        """Return an image's encoded bytes.

        Args:
            reference: bytes as they came in a multipart body; or a data URI, a URL, or base64
                (standard or URL-safe, with or without padding and line breaks).
            item: names the image in errors, such as "image 3".

        Raises:
            ImageReferenceError: not one of these, or too large; also for a URL where they are off.
            ImageFetchError: the URL could not be fetched.
            ImageEmptyError: zero bytes.
        """
        data = reference if isinstance(reference, bytes) else await self._read(reference, item)
        if not data:
            raise ImageEmptyError(f"{item}: zero bytes; send the image again", item=item)
        if len(data) > self._max_bytes:
            raise ImageReferenceError(
                f"{item}: {len(data):,} bytes are more than the limit of {self._max_bytes:,}",
                item=item,
                reason="too large",
            )
        return data

    async def load_all(
        self, references: Sequence[str | bytes], names: Sequence[str]
    ) -> list[bytes | ImageError]:
        """Return the encoded images of a request, in order; an error stands for a bad one.

        Args:
            references: as in `load`.
            names: of the images, in errors.
        """
        if len(references) == 1:  # most requests: no task needed
            return [await self._load_or_error(references[0], names[0])]
        turns = asyncio.Semaphore(_LOADED_AT_ONCE)
        left = _MAX_LOADED_BYTES

        async def load(reference: str | bytes, name: str) -> bytes | ImageError:
            nonlocal left
            async with turns:
                if left >= 0:
                    loaded = await self._load_or_error(reference, name)
                    left -= len(loaded) if isinstance(loaded, bytes) else 0
            if left >= 0:
                return loaded
            return ImageReferenceError(
                f"{name}: the images of one request may have {_MAX_LOADED_BYTES:,} bytes; "
                "send fewer at a time",
                item=name,
                reason="too large",
            )

        return await gather_all(map(load, references, names))

    async def _load_or_error(self, reference: str | bytes, name: str) -> bytes | ImageError:
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
