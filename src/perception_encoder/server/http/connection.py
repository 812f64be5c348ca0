"""uvicorn's HTTP protocol with time limits, and a close that does not lose the last reply.

Without limits a client that sends a byte now and then holds a connection for ever (slow loris);
limits for bodies are in `middleware`. With a plain close, a client that is still sending when its
reply is written sees a reset instead of the reply.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_IDLE_SECONDS: Final = 5.0  # without a byte from the client, as nginx's lingering_timeout
_TOTAL_SECONDS: Final = 30.0  # as nginx's lingering_time

WRITE_SECONDS: Final = 20.0
LEAST_BYTES: Final = 10_000
"""What a client has to read of its reply in `WRITE_SECONDS`: 500 bytes a second, as Apache's limit
for bodies. A slower client is cut off after 20 to 40 s."""


_AT_ONCE: Final = struct.pack("ii", 1, 0)
HEAD_SECONDS: Final = 10.0
_HEAD_BYTES: Final = 64 * 1024
_REST_SECONDS: Final = 30.0  # for what is left of a body that was answered before its end

KEEP_ALIVE_SECONDS: Final = 75
"""Longer than clients and proxies keep idle connections (httpx 5 s, aiohttp 15 s, nginx and AWS
60 s), so that they close first and never send into a connection that was just closed."""
_GRACE_SECONDS: Final = 0.1


class LingeringTransport:
    """A transport for uvicorn's protocol whose `close` leaves the client time to read.

    Args:
        transport: the connection.
        loop: it belongs to.
        is_more_expected: returns whether the client may still be sending, when it is closed.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_more_expected: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._is_more_expected = is_more_expected
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._ends_at = 0.0
        self._num_written = 0
        self._wanted = 0  # bytes that the client has to have taken at the next look
        self._write_timer: asyncio.TimerHandle | None = None
        self.is_lingering = False
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def is_closing(self) -> bool:
        """Return whether nothing more may be written."""
        return self.is_lingering or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send bytes, and check from time to time that the client reads them."""
        if self.is_lingering:
            return
        self._num_written += len(data)
        self._transport.write(data)
        if self._write_timer is None:
            self._write_timer = self._loop.call_later(WRITE_SECONDS, self._look)

    def close(self) -> None:
        """Send the rest and the end of the stream; drop what the client still sends."""
        if self.is_closing():
            return
        if not self._is_more_expected() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.is_lingering = True
        self.pause_reading = self.resume_reading = _no_callback
        self._transport.write_eof()
        self._transport.resume_reading()
        self._heard_at = self._loop.time()
        self._ends_at = self._heard_at + _TOTAL_SECONDS
        self._wait()

    def heard(self) -> None:
        """Note that the client sent something."""
        self._heard_at = self._loop.time()

    def abort(self) -> None:
        """Close at once."""
        self.forget()
        self._transport.abort()

    def forget(self) -> None:
        """Stop the timers and release the protocol: the connection is lost."""
        self._is_more_expected = _no
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._write_timer = None

    def _look(self) -> None:
        """Abort the connection if the client has read too little since the last check."""
        num_waiting = self._transport.get_write_buffer_size()
        num_taken = self._num_written - num_waiting
        if num_waiting and num_taken < self._wanted:
            connection = self._transport.get_extra_info("socket")
            if connection is not None:  # or the kernel would go on offering what it has of it
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.abort()
        elif num_waiting:
            self._wanted = num_taken + min(num_waiting, LEAST_BYTES)
            self._write_timer = self._loop.call_later(WRITE_SECONDS, self._look)
        else:
            self._wanted = 0
            self._write_timer = None

    def _wait(self) -> None:
        ends_at = min(self._heard_at + _IDLE_SECONDS, self._ends_at)
        if self._loop.time() < ends_at:
            self._timer = self._loop.call_at(ends_at, self._wait)
        else:
            self._timer = None
            self._transport.close()


def _no_callback(*_: Any) -> None:
    """Do nothing."""


def _no() -> bool:
    """Return False."""
    return False


class TimedProtocol(HttpToolsProtocol):
    """Closes a connection if the head of its next request does not arrive in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection: LingeringTransport
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first head."""
        self._connection = LingeringTransport(transport, self.loop, self._is_in_request)
        super().connection_made(cast("asyncio.Transport", self._connection))
        self._start_timer(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and release the last request and its body."""
        self._stop_timer()
        self._connection.forget()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:  # also of a connection that was reset
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self.cycle is not None:
            # Each of them knows the protocol; without that the two are freed when they are done.
            for cycle in (self.cycle, *(cycle for cycle, _ in self.pipeline)):
                cycle.on_response = _nothing
            self.pipeline.clear()
            self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Receive bytes; the size of a head is limited."""
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
        """Stop the timer: the body follows."""
        self._stop_timer()
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Prepare for the next head."""
        self._stop_timer()
        super().on_message_complete()
        self._is_in_head = True
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        """Start the timer for the rest of a body that was answered before its end."""
        super().on_response_complete()
        if not self.cycle or not self.cycle.response_complete:  # lost, or of a pipeline
            return
        self.cycle.body = bytearray()  # what the app did not read of it
        if not self._is_in_head and not self.transport.is_closing():
            self._start_timer(_REST_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless a request has arrived and is not read yet.

        A blocked event loop may run this timer before it reads the socket, so it gets another turn
        first. A request that is read then stops the timer.
        """
        self.timeout_keep_alive_task = self.loop.call_later(
            _GRACE_SECONDS, super().timeout_keep_alive_handler
        )

    def shutdown(self) -> None:
        """End with the server; do not wait for a client that only has to read its reply."""
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
