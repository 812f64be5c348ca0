"""Replies with a part of a file, as players ask for it (RFC 9110, section 14)."""

import os
import re
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from perception_encoder.server.core.pools import WorkPool
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import PART_BYTES, StoredImageResponse
from perception_encoder.sources import StoredImage

_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


class ByteRange(NamedTuple):
    """A part of a file: its first byte, and the first one after it."""

    start: int
    stop: int


class UnsatisfiableRangeError(Exception):
    """The part begins after the end of the file."""


def parse_range(header: str | None, num_bytes: int) -> ByteRange | None:
    """Read the header `Range`.

    Returns:
        None for the whole file: without the header, or if it is not one range of bytes. A server
        may answer several ranges with the whole file.

    Raises:
        UnsatisfiableRangeError: nothing of the file is in the range.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # the last bytes
        count = min(int(found[2]), num_bytes)
        start, stop = num_bytes - count, num_bytes
    else:
        start = int(found[1])
        stop = min(int(found[2]) + 1, num_bytes) if found[2] else num_bytes
        if found[2] and int(found[2]) < start:
            return None
    if start >= stop:
        raise UnsatisfiableRangeError
    return ByteRange(start, stop)


class RangeResponse(StoredImageResponse):
    """A reply with a stored file, or a part of it; it closes the file.

    Args:
        part: which bytes; None for all.
        file: open.
        reads: where it is read.
        kind: its media type.
        headers: more of the reply's.
    """

    def __init__(
        self,
        part: ByteRange | None,
        file: StoredImage,
        reads: WorkPool,
        kind: str,
        headers: dict[str, str],
    ) -> None:
        self._part = part or ByteRange(0, file.num_bytes)
        headers = {**headers, "Content-Length": str(self._part.stop - self._part.start)}
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{file.num_bytes}"
        super().__init__(None, 200 if part is None else 206, headers, kind)
        self._file = file
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._file.file:
            await super().__call__(scope, receive, send)

    async def read_parts(self, *, is_head: bool) -> AsyncGenerator[bytes, None]:
        """Yield the bytes, part by part."""
        start, stop = self._part
        for place in range(start, start if is_head else stop, PART_BYTES):
            count = min(PART_BYTES, stop - place)
            yield await self._reads.run(self._file.read, place, count)


def reply_with_ranges(request: Request, file: StoredImage, reads: WorkPool, kind: str) -> Response:
    """Answer a request for a file: all of it, a part, or that it has not changed.

    Args:
        request: with `Range`, `If-Range` or `If-None-Match`.
        file: open; it is closed with the reply.
        reads: where it is read.
        kind: its media type.

    Raises:
        ApiError: 416, the part begins after the end of the file.
    """
    status = os.fstat(file.file.fileno())
    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        file.file.close()
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", tag) != tag:
        wanted = None  # of another version of the file
    try:
        part = parse_range(wanted, file.num_bytes)
    except UnsatisfiableRangeError as err:
        file.file.close()
        headers["Content-Range"] = f"bytes */{file.num_bytes}"
        message = f"the file has {file.num_bytes:,} bytes, and none of them is in {wanted!r}"
        raise ApiError(416, "invalid_range", message, headers=headers) from err
    return RangeResponse(part, file, reads, kind, headers)
