"""What a process that was forked makes anew, and where it computes.

A fork copies one thread. Locks that other threads held stay locked for ever, what they computed is
never finished, and OpenMP waits for helpers that are not there. So objects with locks or an open
database make these anew in the child, and torch computes there on a thread of its own, for which
OpenMP starts new helpers. Knows nothing of models.
"""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

_Result = TypeVar("_Result")


class Renewable(Protocol):
    """Something that a forked process cannot use as it is."""

    def renew_after_fork(self) -> None:
        """Make locks, and whatever other threads may have been using, anew; close nothing."""


_NUM_THREADS: Final = 4  # calls at once; a GPU is given two
_RENEWED: Final = weakref.WeakSet[Renewable]()
_CHILD: Final[list[ThreadPoolExecutor]] = []  # one in a forked process, else none
_LOCAL: Final = threading.local()


def renew_in_children(one: Renewable) -> None:
    """Have an object made anew in every process that is forked from this one."""
    _RENEWED.add(one)


def run_on_usable_thread(call: Callable[[], _Result]) -> _Result:
    """Call something that uses OpenMP: here, but in a forked process on a thread made there."""
    if not _CHILD or getattr(_LOCAL, "is_usable", False):
        return call()
    return _CHILD[0].submit(_marked, call).result()


def _marked(call: Callable[[], _Result]) -> _Result:
    _LOCAL.is_usable = True
    return call()


def _in_child() -> None:
    _CHILD[:] = [ThreadPoolExecutor(_NUM_THREADS, "after-fork")]
    _LOCAL.is_usable = False
    for one in list(_RENEWED):
        one.renew_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)
