"""Renew locks and choose the computing thread in forked processes.

A fork copies one thread. Locks that other threads held stay locked, and OpenMP waits for worker
threads that no longer exist. So objects with locks or an open database renew these in the child,
and torch computes there on a new thread, for which OpenMP starts new workers.
"""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final, Protocol, TypeVar

_Result = TypeVar("_Result")


class Renewable(Protocol):
    """An object that a forked process cannot use as it is."""

    def renew_after_fork(self) -> None:
        """Renew locks and what other threads may have been using; close nothing."""


_NUM_THREADS: Final = 4  # calls at once; a GPU is given two
_RENEWED: Final = weakref.WeakSet[Renewable]()
_CHILD: Final[list[ThreadPoolExecutor]] = []  # one in a forked process, else none
_LOCAL: Final = threading.local()


def renew_in_children(one: Renewable) -> None:
    """Renew an object in every process that is forked from this one."""
    _register()
    _RENEWED.add(one)


def run_on_usable_thread(call: Callable[[], _Result]) -> _Result:
    """Call something that uses OpenMP; in a forked process, on a thread that was started there."""
    _register()
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


@cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=_in_child)
