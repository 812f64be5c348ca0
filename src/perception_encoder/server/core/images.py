"""Pictures that requests name: base64, data URIs and, where enabled, URLs become encoded bytes.

One way for every dialect. Never a path of this machine, never a pickle. Nothing is decoded here.
"""

import base64
import binascii
import re
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from perception_encoder.errors import ImageEmptyError, ImageReferenceError

_DATA_URI: Final = re.compile(r"data:([^,]*),", re.IGNORECASE)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SPACES: Final = re.compile(r"\s+")
_URL_SAFE: Final = str.maketrans("-_", "+/")


class Fetcher(Protocol):
    """Brings pictures from the web."""

    async def fetch(self, url: str, *, item: str) -> bytes:
        """Return what a URL answers with.

        Raises:
            ImageFetchError: it could not be fetched, or may not be.
        """
        ...

    async def close(self) -> None:
        """End all connections."""


class ImageLoader:
    """Turns what a request says of a picture into its encoded bytes.

    Args:
        fetcher: brings URLs; None refuses them.
        max_bytes: of one encoded picture.
    """

    def __init__(self, fetcher: Fetcher | None, *, max_bytes: int) -> None:
        self._fetcher = fetcher
        self._max_bytes = max_bytes

    async def load(self, reference: str | bytes, *, item: str) -> bytes:
        """Return a picture's encoded bytes.

        Args:
            reference: bytes as they came in a multipart body; or a data URI, a URL, or base64
                (standard or URL-safe, with or without padding and line breaks).
            item: names the picture in errors, such as "image 3".

        Raises:
            ImageReferenceError: not one of these, or too large; also for a URL where they are off.
            ImageFetchError: the URL could not be fetched.
            ImageEmptyError: zero bytes.
        """
        data = reference if isinstance(reference, bytes) else await self._read(reference, item)
        if not data:
            raise ImageEmptyError(f"{item}: zero bytes; send the picture again", item=item)
        if len(data) > self._max_bytes:
            raise ImageReferenceError(
                f"{item}: {len(data):,} bytes are more than the limit of {self._max_bytes:,}",
                item=item,
                reason="too large",
            )
        return data

    async def close(self) -> None:
        """End all connections."""
        if self._fetcher is not None:
            await self._fetcher.close()

    async def _read(self, reference: str, item: str) -> bytes:
        reference = reference.strip()
        if (found := _DATA_URI.match(reference)) is not None:
            return _data_of(reference[found.end() :], found[1], item)
        if reference[:5].lower() == "data:":
            raise ImageReferenceError(
                f"{item}: a data URI without a comma; write data:image/png;base64,…",
                item=item,
                reason="data URI",
            )
        if _URL.match(reference):
            if self._fetcher is None:
                raise ImageReferenceError(
                    f"{item}: this server fetches no URLs; send the picture itself, as base64 "
                    "or as a file",
                    item=item,
                    reason="URLs are off",
                )
            return await self._fetcher.fetch(reference, item=item)
        return _base64(reference, item)


def _data_of(content: str, kind: str, item: str) -> bytes:
    if kind.rpartition(";")[2].strip().lower() == "base64":
        return _base64(content, item)
    return unquote_to_bytes(content)


def _base64(text: str, item: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        pass
    compact = _SPACES.sub("", text).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as err:
        raise ImageReferenceError(
            f"{item}: neither base64 nor a data URI ({err}); send the file's bytes as base64",
            item=item,
        ) from err
