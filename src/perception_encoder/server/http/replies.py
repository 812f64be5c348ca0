"""Replies: JSON, errors, and images that are read from files while they are sent."""

import contextlib
import logging
import re
import zipfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from perception_encoder.errors import ImageError, ServingError
from perception_encoder.server.core.pools import WorkPool
from perception_encoder.server.http.errors import ApiError, convert_error
from perception_encoder.sources import StoredImage

logger = logging.getLogger(__name__)

_INT64: Final = 2**63
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

BINARY: Final = {
    "schema": {
        "type": "string",
        "format": "binary",  # of OpenAPI 3.0; generators of clients read nothing else as bytes
        "contentMediaType": "application/octet-stream",
    }
}
"""What the OpenAPI document says of content that is bytes."""

ErrorBody: TypeAlias = Callable[[ApiError, Exception], Any]
"""Makes a reply's JSON body of the answer and the error behind it (`RequestValidationError` for a
body of a wrong form, one of this package's, or the `ApiError` itself)."""


PART_BYTES: Final = 128 * 1024
"""So much of a reply is in memory, and as much again waits for the client to take it."""


def json_reply(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    r"""Return a JSON reply; contiguous numpy arrays become lists, float32 in their shortest form.

    Every reply is JSON that strict parsers read: numbers that are not finite become null, halves of
    surrogate pairs in names and quoted texts are escaped ("caf\udce9.jpg"), integers beyond 64
    bits and whatever else JSON has no form for become strings.
    """
    try:
        content = orjson.dumps(body, option=_OPTIONS)
    except orjson.JSONEncodeError:
        content = orjson.dumps(_valid(body), option=_OPTIONS, default=str)
    return Response(content, status, dict(headers or {}), "application/json")


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not -_INT64 <= value < 2 * _INT64:
        return str(value)
    if isinstance(value, Mapping):
        return {_valid(str(key)): _valid(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    return value


class ErrorItem(BaseModel):
    """What is wrong with one image or text of a request."""

    index: int
    code: str
    message: str


class ErrorDetail(BaseModel):
    """What happened, to which items, and what to do; `code` is for programs."""

    code: str
    message: str
    items: list[ErrorItem] | None = None


class ErrorReply(BaseModel):
    """The reply to a request that cannot be answered."""

    error: ErrorDetail


def native_error(answer: ApiError, _: Exception) -> Any:
    """Return {"error": {"code", "message", "items"?}}."""
    return answer.native()


def error_reply(request: Request, err: Exception, body: ErrorBody = native_error) -> Response:
    """Return the reply to an error, and log it if nobody expected it."""
    answer = convert_error(err)
    request.scope["pe.error"] = answer.code
    if answer.status_code >= 500 and not isinstance(err, ApiError):
        logger.error(
            "request %s: %s",
            request.scope.get("pe.request_id"),
            err,
            exc_info=err if answer.code == "internal" else None,
        )
    return json_reply(body(answer, err), status=answer.status_code, headers=answer.headers)


class StoredImageResponse(Response):
    """A reply whose parts are read while it is sent. An error while reading cuts it off."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it."""
        start = {"type": "http.response.start", "status": self.status_code}
        start["headers"] = self.raw_headers
        await send(start)
        try:
            async with contextlib.aclosing(self.read_parts(is_head="pe.is_head" in scope)) as parts:
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except (ImageError, ServingError) as err:
            logger.warning("a reply was cut off: %s", err)
            return  # incomplete, so its connection is closed
        await send({"type": "http.response.body", "body": b""})

    def read_parts(self, *, is_head: bool) -> AsyncGenerator[bytes, None]:
        """Yield the body, part by part; nothing for HEAD."""
        raise NotImplementedError


class ImageResponse(StoredImageResponse):
    """A reply with a stored image; it closes the image's file.

    Args:
        image: open.
        reads: where it is read.
        kind: its media type.
        headers: more of the reply's.
    """

    def __init__(
        self, image: StoredImage, reads: WorkPool, kind: str, headers: Mapping[str, str]
    ) -> None:
        length = {"Content-Length": str(image.num_bytes)}
        super().__init__(None, headers={**headers, **length}, media_type=kind)
        self._image = image
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._image.file:
            await super().__call__(scope, receive, send)

    async def read_parts(self, *, is_head: bool) -> AsyncGenerator[bytes, None]:
        """Yield the image, part by part."""
        for place in range(0, 0 if is_head else self._image.num_bytes, PART_BYTES):
            yield await self._reads.run(self._image.read, place, PART_BYTES)


class ZipResponse(StoredImageResponse):
    """A zip file of stored images, not compressed again.

    Args:
        images: the name of each, and what opens it.
        reads: where they are read.
        max_bytes: of all images; further ones are left out.
    """

    def __init__(
        self,
        images: Sequence[tuple[str, Callable[[], StoredImage]]],
        reads: WorkPool,
        max_bytes: int,
    ) -> None:
        headers = {"Content-Disposition": 'attachment; filename="images.zip"'}
        super().__init__(None, headers=headers, media_type="application/zip")
        del self.headers["content-length"]
        self._images = images
        self._reads = reads
        self._max_bytes = max_bytes

    async def read_parts(self, *, is_head: bool) -> AsyncGenerator[bytes, None]:  # noqa: ARG002
        """Yield the zip file, part by part."""
        sink, names, left_out = _Sink(), set[str](), list[str]()
        num_bytes = 0
        with zipfile.ZipFile(sink, "w") as archive:
            for name, open_image in self._images:
                try:
                    image = await open_stored(self._reads, open_image)
                except (ImageError, ServingError) as err:
                    left_out.append(f"{name}: {err}")
                    continue
                with image.file:
                    num_bytes += image.num_bytes
                    if num_bytes > self._max_bytes:
                        left_out.append(f"{name}: the images have too many bytes together")
                        continue
                    info = zipfile.ZipInfo(_name_in_zip(name, names))
                    with archive.open(info, "w", force_zip64=True) as entry:
                        for place in range(0, image.num_bytes, PART_BYTES):
                            entry.write(await self._reads.run(image.read, place, PART_BYTES))
                            yield sink.take()
            if left_out:
                archive.writestr("left-out.txt", "\n".join(left_out).encode("utf-8", "replace"))
        yield sink.take()


async def open_stored(reads: WorkPool, open_image: Callable[[], StoredImage]) -> StoredImage:
    """Open an image in a thread; one that opens after its request has ended is closed at once."""
    is_awaited = True

    def open_or_close() -> StoredImage:
        image = open_image()
        if not is_awaited:
            image.file.close()
        return image

    try:
        return await reads.run(open_or_close)
    except BaseException:
        is_awaited = False
        raise


class _Sink:
    """What zipfile writes to; it cannot be sought, so sizes follow each image."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: `take` returns what is sent."""

    def close(self) -> None:
        """Do nothing: there is no file."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        content = b"".join(self._parts)
        self._parts.clear()
        return content


def _name_in_zip(name: str, taken: set[str]) -> str:
    """Return a file name without folders, unlike those taken, and take it."""
    base = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", re.split(r"[/\\]", name)[-1]) or "image"
    stem, dot, suffix = base.rpartition(".")
    chosen, number = base, 2
    while chosen.lower() in taken:
        chosen = f"{stem} ({number}).{suffix}" if dot else f"{base} ({number})"
        number += 1
    taken.add(chosen.lower())
    return chosen
