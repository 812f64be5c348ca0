"""Closes connections so that the last reply arrives.

A socket that is closed with unread bytes in it, or that bytes reach afterwards, answers with a
reset, and a reset throws away what the client has not read yet: the reply that says why. So a
server that replies before it has read a whole body ends its own half, and reads on for a while
(RFC 9112, section 9.6).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

_IDLE_SECONDS: Final = 5.0  # without a byte from the client, as nginx's lingering_timeout
_TOTAL_SECONDS: Final = 30.0  # as nginx's lingering_time


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
        self.is_lingering = False
        self.write: Callable[[bytes], None] = transport.write
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def is_closing(self) -> bool:
        """Say whether nothing more may be written."""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Send what was written, then the end; what still comes is read and thrown away."""
        if self.is_closing():
            return
        if not self._is_more_expected() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.is_lingering = True
        self.write = _nothing
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
        """Wait no longer: the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        ends_at = min(self._heard_at + _IDLE_SECONDS, self._ends_at)
        if self._loop.time() < ends_at:
            self._timer = self._loop.call_at(ends_at, self._wait)
        else:
            self._timer = None
            self._transport.close()


def _nothing(*_: Any) -> None:
    """Stand for what a connection no longer does."""
