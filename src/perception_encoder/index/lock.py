"""One writer at a time: a lock beside the table, which the system frees when its holder dies.

Readers need none: they see whole commits. Tables on object storage have no lock; there Lance itself
refuses the second of two commits that touch the same rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from perception_encoder.errors import IndexBusyError
from perception_encoder.index.storage import beside, is_remote, storage_errors

_WAIT_FOR_EVER: Final = -1
_SECONDS_TO_WAIT: Final = 0.2  # a lock that is let go in this moment is no reason to refuse


@contextmanager
def writing(path: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the table's write lock.

    Args:
        path: of the table.
        wait: until another writer is done, rather than refuse.

    Raises:
        IndexBusyError: another process, or thread, holds it; the message says which.
        IndexStorageError: the folder cannot be written.
    """
    if is_remote(path):
        yield
        return
    from filelock import FileLock, Timeout

    name = beside(path, "lock")
    with storage_errors(path):
        os.makedirs(os.path.dirname(name), exist_ok=True)
        lock = FileLock(name, timeout=_WAIT_FOR_EVER if wait else _SECONDS_TO_WAIT)
        try:
            lock.acquire()
        except Timeout as err:
            raise IndexBusyError(
                f"{path}: {_holder(name)} is writing to this table; wait until it is done "
                "(pe index --wait does), or write to another table"
            ) from err
    try:
        _sign(name)
        yield
    finally:
        lock.release()


def _sign(name: str) -> None:
    """Leave word of who holds the lock, for the other's message; not needed for locking."""
    with storage_errors(name), open(f"{name}-holder", "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {time.strftime('%H:%M:%S')}")


def _holder(name: str) -> str:
    try:
        with open(f"{name}-holder", encoding="utf-8") as file:
            pid, since = file.read().split()
    except (OSError, ValueError):  # it has not signed yet
        return "another process"
    return f"process {pid} (since {since})"
