"""Replies that are read from a file while they are sent, as fast as the client takes them."""

import logging
from collections.abc import Mapping
from typing import Final

from fastapi import Response
from starlette.types import Receive, Scope, Send

from perception_encoder.errors import ImageError, ServingError
from perception_encoder.server.core.pools import WorkPool
from perception_encoder.sources import StoredImage

logger = logging.getLogger(__name__)

PART_BYTES: Final = 128 * 1024
"""So much of a reply is in memory, and as much again waits for the client to take it."""


class ImageResponse(Response):
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it."""
        with self._image.file:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            num_bytes = 0 if "pe.is_head" in scope else self._image.num_bytes
            try:
                for place in range(0, num_bytes, PART_BYTES):
                    part = await self._reads.run(self._image.read, place, PART_BYTES)
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except (ImageError, ServingError) as err:
                logger.warning("a reply had to end before its end: %s", err)
                return  # incomplete, so its connection is closed
            await send({"type": "http.response.body", "body": b""})
