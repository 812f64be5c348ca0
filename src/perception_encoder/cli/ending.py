"""SIGTERM, which ends a command in the way Ctrl-C does."""

import os
import signal
from types import FrameType
from typing import Final

_TERMINATED: Final = 128 + 15  # what shells call an end by SIGTERM


class Termination:
    """Hears of SIGTERM from its making on, and makes a KeyboardInterrupt of the first.

    The kernel keeps a signal from the first process of a container that has no handler for it, so
    `docker stop` would wait for ten seconds and kill. And who is told to end keeps what is done.
    """

    def __init__(self) -> None:
        self._came = False
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._came = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        raise KeyboardInterrupt

    def pass_on(self) -> None:
        """End this process by SIGTERM if that is what interrupted it, so that its parent knows."""
        if self._came:
            signal.raise_signal(signal.SIGTERM)
            os._exit(_TERMINATED)  # the first process of a container is still here
