"""Closes connections so that the last reply arrives, and those whose client takes no reply.

A socket that is closed with unread bytes in it, or that bytes reach afterwards, answers with a
reset, and a reset throws away what the client has not read yet: the reply that says why. So a
server that replies before it has read a whole body ends its own half, and reads on for a while
(RFC 9112, section 9.6).

What a client does not read waits in this process's memory. A connection that takes next to nothing
of it is ended, also while it is being closed: closing waits for what was written.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

_IDLE_SECONDS: Final = 5.0  # without a byte from the client, as nginx's lingering_timeout
_TOTAL_SECONDS: Final = 30.0  # as nginx's lingering_time

WRITE_SECONDS: Final = 20.0
LEAST_BYTES: Final = 10_000
"""What a client has to take of its reply in `WRITE_SECONDS`: 500 bytes a second, as Apache asks of
those who send bodies. One that takes less is cut off after 20 to 40 s."""


_AT_ONCE: Final = struct.pack("ii", 1, 0)


class LingeringTransport:
    """A connection for uvicorn's protocol, whose `close` may leave the client time to read.

    Args:
        transport: the connection.
        loop: it belongs to.
        is_more_expected: asked at the close: whether the client may still be sending.
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
        """Say whether nothing more may be written."""
        return self.is_lingering or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send some bytes, and look from time to time whether they are taken."""
        if self.is_lingering:
            return
        self._num_written += len(data)
        self._transport.write(data)
        if self._write_timer is None:
            self._write_timer = self._loop.call_later(WRITE_SECONDS, self._look)

    def close(self) -> None:
        """Send what was written, then the end; what still comes is read and thrown away."""
        if self.is_closing():
            return
        if not self._is_more_expected() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.is_lingering = True
        self.pause_reading = self.resume_reading = _nothing
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
        """Wait no longer: the connection is lost. Nothing of its protocol is held."""
        self._is_more_expected = _no
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._write_timer = None

    def _look(self) -> None:
        """End the connection if what waited at the last look still does."""
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


def _nothing(*_: Any) -> None:
    """Stand for what a connection no longer does."""


def _no() -> bool:
    """Say that nothing more comes on a connection that is lost."""
    return False
