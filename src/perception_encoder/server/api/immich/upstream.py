"""Immich's own machine-learning server, which answers what this one does not: faces and OCR."""

import json
import secrets
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpcore2
from pydantic_core import from_json

from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.options import MIB

_SECONDS: Final = 300.0
"""For one reply: the first request of a task downloads its model. Immich waits as long."""
_MAX_REPLY: Final = 16 * MIB


class Upstream:
    """That server.

    Args:
        url: such as "http://immich-machine-learning:3003"; a path is left out, as Immich does.

    Raises:
        ValueError: no URL of a server.
    """

    def __init__(self, url: str) -> None:
        if not _is_server(url):
            raise ValueError(
                f"{url!r} is no address of Immich's machine-learning server; write "
                "http://immich-machine-learning:3003"
            )
        self._url = urljoin(url, "/predict")

    async def predict(self, tasks: dict[str, Any], content: bytes | str) -> dict[str, Any]:
        """Return that server's reply.

        Args:
            tasks: `entries` of the request.
            content: the image or the text.

        Raises:
            ApiError: 502, it cannot be reached, or its reply is none; 504, it took too long.
        """
        boundary = f"----perception-encoder-{secrets.token_hex(16)}"
        headers = [("Content-Type", f"multipart/form-data; boundary={boundary}")]
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), _SECONDS)
        try:
            async with (
                httpcore2.AsyncConnectionPool() as pool,
                pool.stream(
                    "POST",
                    self._url,
                    headers=headers,
                    content=_write_form(boundary, tasks, content),
                    extensions={"timeout": timeout},
                ) as reply,
            ):
                body = await _read(reply)
        except httpcore2.TimeoutException as err:
            raise self._failure(504, f"gave no reply in {_SECONDS:g} s") from err
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as err:
            raise self._failure(502, f"cannot be reached: {err}") from err
        if reply.status != 200:
            shown = body[:300].decode("utf-8", "replace")
            raise self._failure(502, f"answered {reply.status}: {shown}")
        return self._parse(body)

    def _parse(self, body: bytes) -> dict[str, Any]:
        try:
            found = from_json(body, allow_inf_nan=False)
        except ValueError as err:
            raise self._failure(502, f"gave a reply that is not JSON: {err}") from err
        if not isinstance(found, dict):
            raise self._failure(502, "gave a reply that is no JSON object")
        return found

    def _failure(self, status: int, message: str) -> ApiError:
        return ApiError(status, "upstream_failed", f"Immich's server {self._url} {message}")


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


async def _read(reply: httpcore2.Response) -> bytes:
    body = bytearray()
    async for part in reply.aiter_stream():
        body += part
        if len(body) > _MAX_REPLY:
            raise httpcore2.ProtocolError(f"its reply has more than {_MAX_REPLY:,} bytes")
    return bytes(body)


def _write_form(boundary: str, tasks: dict[str, Any], content: bytes | str) -> bytes:
    """Return a multipart body as Immich's server writes it."""
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    entries = f'{start}entries"\r\n\r\n{json.dumps(tasks)}\r\n'
    if isinstance(content, str):
        head, data = f'{start}text"\r\n\r\n', content.encode()
    else:
        kind = "Content-Type: application/octet-stream"
        head, data = f'{start}image"; filename="blob"\r\n{kind}\r\n\r\n', content
    return b"".join([entries.encode(), head.encode(), data, f"\r\n--{boundary}--\r\n".encode()])
