"""Keeps the collector of reference cycles from stopping a busy server.

A full collection looks at every object there is: a tenth of a second for the modules and schemas of
a server, several times in ten seconds under load, with the interpreter's lock held. What survives
one that took long is there to stay, so later ones need not look at it again.
"""

import gc
import time
from typing import Any, Final

_LONG_SECONDS: Final = 0.01
_OLDEST: Final = 2


class Pauses:
    """A callback of `gc`: freezes what is left by a full collection that took long.

    After that collections are short, so hardly anything of a single request is ever frozen. What
    counts is processor time: on busy cores a short one may last long.
    """

    def __init__(self) -> None:
        self._started = 0.0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        """Note the start of a collection, or look at how long it took."""
        if info["generation"] != _OLDEST:
            return
        if phase == "start":
            self._started = time.thread_time()
        elif time.thread_time() - self._started > _LONG_SECONDS:
            gc.freeze()


def shorten_pauses() -> None:
    """Do so from now on, for the whole process."""
    if not any(isinstance(callback, Pauses) for callback in gc.callbacks):
        gc.callbacks.append(Pauses())
