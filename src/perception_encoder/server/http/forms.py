"""Multipart bodies, which have to be whole: what was cut off is no smaller request."""

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.options import AccessSettings

_MORE_FIELDS = 16  # beside one for each item


async def read_form(request: Request, limits: AccessSettings) -> FormData:
    """Return the fields and files of a multipart body; close it when they are read.

    Raises:
        ApiError: 400, it is no multipart body, has too many parts, or does not come to its end.
    """
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=limits.max_items,
        max_fields=limits.max_items + _MORE_FIELDS,
        max_part_size=limits.max_body_bytes,
    )
    try:
        return await parser.parse()
    except MultiPartException as err:
        raise ApiError(400, "invalid_request", f"the multipart body: {err.message}") from err


class _Parser(MultiPartParser):
    """Refuses a body that ends before its final boundary."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], **limits: int):
        super().__init__(headers, self._whole(stream), **limits)
        self._is_whole = False

    def on_end(self) -> None:
        """Note that the final boundary came."""
        self._is_whole = True

    async def _whole(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            yield part
        if not self._is_whole:  # raised from here it also closes the files that have begun
            raise MultiPartException("it is cut off, without a final boundary; send it again")
