"""uvicorn's HTTP protocol, with limits on requests' heads and an orderly end of connections.

Without limits a client that sends a byte now and then holds a connection for ever (slow loris);
bodies have limits of their own in `edge`. Without the orderly end a client that is still sending
when its reply is written, or that sends just when its connection expires, sees a reset.
"""

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from perception_encoder.server.lingering import LingeringTransport

HEAD_SECONDS: Final = 10.0
_HEAD_BYTES: Final = 64 * 1024
_REST_SECONDS: Final = 30.0  # for what is left of a body that was answered before its end

KEEP_ALIVE_SECONDS: Final = 75
"""Longer than clients and proxies keep idle connections (httpx 5 s, aiohttp 15 s, nginx and AWS
60 s): whoever closes first never sends into a connection that the other has just closed."""
_GRACE_SECONDS: Final = 0.1


class TimedProtocol(HttpToolsProtocol):
    """Closes a connection whose next request's head does not arrive whole in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection: LingeringTransport
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        self._connection = LingeringTransport(transport, self.loop, self._is_in_request)
        super().connection_made(cast("asyncio.Transport", self._connection))
        self._start_timer(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and hold nothing of the last request: what it sent and who answers it."""
        self._stop_timer()
        self._connection.forget()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # also of a connection that was reset
        if self.cycle is not None:
            # Each of them knows the protocol; without that the two are freed when they are done.
            for cycle in (self.cycle, *(cycle for cycle, _ in self.pipeline)):
                cycle.on_response = _nothing
            self.pipeline.clear()
            self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Take the next bytes; of a head only so many."""
        if self._connection.is_lingering:
            self._connection.heard()
            return
        if self._is_in_head:
            self._start_timer(HEAD_SECONDS)
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > _HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._stop_timer()
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Be ready for the next head."""
        self._stop_timer()
        super().on_message_complete()
        self._is_in_head = True
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        """Go on to the next request; the rest of this one's body may not take for ever."""
        super().on_response_complete()
        if not self.cycle or not self.cycle.response_complete:  # lost, or of a pipeline
            return
        self.cycle.body = bytearray()  # what the app did not read of it
        if not self._is_in_head and not self.transport.is_closing():
            self._start_timer(_REST_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless a request has arrived that was not read yet.

        A loop that was kept from running may find a connection expired before it looks whether
        something came; so it is made to look once more. What comes stops this timer too.
        """
        self.timeout_keep_alive_task = self.loop.call_later(
            _GRACE_SECONDS, super().timeout_keep_alive_handler
        )

    def shutdown(self) -> None:
        """End, when the server does; a client that only has its reply to read is not waited for."""
        if self._connection.is_lingering:
            self._connection.abort()
        else:
            super().shutdown()

    def _is_in_request(self) -> bool:
        return not self._is_in_head or self._head_bytes > 0

    def _start_timer(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.abort()


def _nothing() -> None:
    """Stand for what a lost connection no longer does."""
