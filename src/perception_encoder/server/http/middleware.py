"""The outermost middleware, for all requests: limits, disconnects, headers, metrics and the log.

Bodies have limits of size and time while they are read. The request of a client that goes away is
cancelled, and its queued items are dropped. Every reply has a request id and security headers.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perception_encoder.server.core.pools import release_frames
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.telemetry import Metrics, escape_controls
from perception_encoder.server.options import AccessSettings

logger = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLOSE: Final = {"Connection": "close"}  # the rest of the body is not read
_PAGE_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    b"media-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"content-security-policy", _PAGE_POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
_GONE: Final = 499  # in logs and metrics: the client did not wait for the reply


class RequestMiddleware:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: AccessSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        # Pages of allowed origins show images from here; `sites` answers no others.
        policy = b"cross-origin" if settings.cors_origins else b"same-origin"
        self._headers = (*_HEADERS, (b"cross-origin-resource-policy", policy))
        if settings.cors_origins:
            self._headers += ((b"vary", b"Origin"),)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":  # routes know GET; what follows its reply's head is left out
            scope = {**scope, "method": "GET", "pe.is_head": True}
        exchange = _Exchange(scope, receive, send, self._settings, self._headers)
        try:
            await exchange.run(self._app)
        finally:
            self._note(method, scope, exchange)

    def _note(self, method: str, scope: Scope, exchange: "_Exchange") -> None:
        seconds = time.perf_counter() - exchange.started
        api = str(scope.get("pe.api", "none"))
        route = str(scope.get("pe.route", "none"))
        self._metrics.requests.labels(api, route, str(exchange.status)).inc()
        self._metrics.seconds.labels(api, route).observe(seconds)
        if (code := scope.get("pe.error")) is not None:
            self._metrics.errors.labels(code).inc()
        client = scope.get("client")
        logger.info(
            "%s %s %d",
            method,
            escape_controls(scope["path"][:200]),  # not the query: keys may stand there
            exchange.status,
            extra={
                "request_id": exchange.request_id,
                "api": api,
                "route": route,
                "status": exchange.status,
                "milliseconds": round(1000 * seconds, 1),
                "bytes_in": exchange.num_read,
                "client": client[0] if client else None,
                "error": code,
            },
        )


class _Exchange:
    """One request and its reply."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: AccessSettings,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self.started = time.perf_counter()
        self.status = _GONE
        self.num_read = 0
        self.request_id = _request_id(scope)
        scope["pe.request_id"] = self.request_id
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = headers
        self._max_bytes = settings.max_body_bytes
        self._body_ends = time.monotonic() + settings.body_timeout_seconds
        self._is_read = False
        self._is_answered = False
        self._is_gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def run(self, app: ASGIApp) -> None:
        """Run the app; cancel it if the client goes away first."""
        self._task = asyncio.current_task()
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError as err:
            if not self._is_gone or self._task is None:
                raise
            self._task.uncancel()
            release_frames(err)
        finally:
            watcher, self._watcher = self._watcher, None
            if watcher is not None:  # its error holds this object: with it, neither would be freed
                watcher.cancel()

    async def receive(self) -> Message:
        """Return the next part of the body, within limits."""
        if self._is_read:  # asked whether the client is still there
            await asyncio.shield(self._watch())
            return {"type": "http.disconnect"}
        self._check_announced()
        try:
            async with asyncio.timeout(max(0.0, self._body_ends - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408, "timeout", "the request's body did not arrive in time", headers=_CLOSE
            ) from None
        if message["type"] == "http.request":
            self.num_read += len(message.get("body", b""))
            self._check_size(self.num_read)
            if not message.get("more_body", False):
                self._is_read = True
                self._watch()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the reply, with the headers of every reply."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [
                *message.get("headers", ()),
                *(pair for pair in self._headers if pair[0] not in present),
                (b"x-request-id", self.request_id.encode()),
            ]
            if b"cache-control" not in present:
                message["headers"].append((b"cache-control", b"no-store"))
        else:
            self._is_answered = not message.get("more_body", False)
            if "pe.is_head" in self._scope:
                message["body"] = b""
        await self._send(message)

    def _watch(self) -> asyncio.Task[None]:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._wait_until_gone())
        return self._watcher

    async def _wait_until_gone(self) -> None:
        message: MutableMapping[str, Any] = {}
        while message.get("type") != "http.disconnect":
            message = await self._receive()
        if not self._is_answered and self._task is not None:
            self._is_gone = True
            self.status = _GONE
            self._task.cancel()

    def _check_announced(self) -> None:
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self._check_size(int(value))

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ApiError(
                413,
                "too_large",
                f"the request's body is larger than the limit of {self._max_bytes:,} bytes; "
                "send fewer images at once",
                headers=_CLOSE,
            )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value).decode()
    return f"{random.getrandbits(64):016x}"  # an id, not a secret
