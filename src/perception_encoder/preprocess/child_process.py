"""A child process that decodes: each request and each reply is a line of JSON, and bytes after it.

A decoder that crashes, runs for hours or takes all memory costs one file that way.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, Final

_MAX_LINE: Final = 2**16  # bytes of a reply's JSON
_END_SECONDS: Final = 5  # in which a process ends after its pipes


class ChildProcess:
    """A child process and the pipes to it. One thread at a time uses it; any may `kill` it.

    Args:
        command: starts it.
        env: its environment; None is this process's own.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        self.is_late = False
        """Whether it was ended because it took too long."""

    @property
    def is_usable(self) -> bool:
        """Whether it runs, and is this process's own: a forked process has a copy of the pipes."""
        return self._owner == os.getpid() and self._process.poll() is None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Kill the child if the block takes longer."""
        timer = threading.Timer(seconds, self._end_late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def send(self, request: object, content: bytes = b"") -> None:
        """Write a request.

        Raises:
            OSError: the child has ended.
        """
        stdin = _pipe(self._process.stdin)
        stdin.write(json.dumps(request).encode() + b"\n")
        stdin.write(content)
        stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Read the JSON of a reply.

        Raises:
            EOFError: the child has ended.
            ValueError: it is no JSON.
        """
        line = _pipe(self._process.stdout).readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise EOFError("the reply ends early")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def read(self, num_bytes: int) -> bytes:
        """Read the bytes of a reply.

        Raises:
            EOFError: there are fewer, as the child has ended.
        """
        content = _pipe(self._process.stdout).read(num_bytes)
        if len(content) < num_bytes:
            raise EOFError("the reply ends early")
        return content

    def exit_code(self) -> int | None:
        """Return how it ended, -9 for signal 9; None if it goes on."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=_END_SECONDS)
        return None

    def kill(self) -> None:
        """End it at once, and leave the pipes to the thread that reads them."""
        if self._owner == os.getpid():
            self._process.kill()

    def close(self) -> None:
        """End it at once, and close the pipes; a forked process only forgets its parent's child."""
        if self._owner != os.getpid():
            self._process.returncode = 0
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not written yet
                    stream.close()

    def _end_late(self) -> None:
        self.is_late = True
        self._process.kill()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
