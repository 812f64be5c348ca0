"""One writer at a time: a lock beside the table, which the system frees when its holder dies.

Readers need none: they see whole commits. Tables on object storage have no lock; there Lance itself
refuses the second of two commits that touch the same rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import IndexBusyError
from perception_encoder.index.storage import beside, is_remote, storage_errors

if TYPE_CHECKING:
    from filelock import FileLock

_TRIES: Final = 100
_WAIT_FOR_EVER: Final = -1
_SECONDS_TO_WAIT: Final = 0.2  # a lock that is let go in this moment is no reason to refuse


@contextmanager
def writing(path: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the table's write lock.

    Folders that were made for the lock alone are removed again.

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
        lock = FileLock(name, timeout=_WAIT_FOR_EVER if wait else _SECONDS_TO_WAIT)
        try:
            first_made = _acquire(lock, os.path.dirname(os.path.abspath(name)))
        except Timeout as err:
            raise IndexBusyError(
                f"{path}: {_holder(name)} is writing to this table; wait until it is done "
                "(pe index --wait does), or write to another table"
            ) from err
    try:
        _sign(name)
        yield
    finally:
        is_forgotten = _forget(name)
        lock.release()
        if is_forgotten:
            own = os.path.dirname(os.path.abspath(name))
            _remove_empty(own, first_made or own)


def is_being_written(path: str) -> bool | None:
    """Say whether a process holds the table's write lock; writes nothing itself.

    Returns:
        None where that cannot be known: a table on object storage, a file system without locks.
    """
    if is_remote(path):
        return None
    try:
        import fcntl
    except ImportError:  # Windows
        return _is_locked(beside(path, "lock"))
    try:
        descriptor = os.open(beside(path, "lock"), os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _is_locked(name: str) -> bool | None:
    """Say whether a lock that exists can be taken."""
    from filelock import FileLock, Timeout

    if not os.path.exists(name):
        return False
    try:
        with FileLock(name, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return None


def _acquire(lock: FileLock, folder: str) -> str | None:
    """Take the lock, and return the outermost folder that had to be made for it."""
    first_made = None
    for left in reversed(range(_TRIES)):
        try:
            first_made = _first_missing(folder) or first_made
            os.makedirs(folder, exist_ok=True)
            lock.acquire()
            break
        except (FileNotFoundError, FileExistsError):  # removed just now by a run that wrote nothing
            if not left:
                raise
    return first_made


def _first_missing(folder: str) -> str | None:
    """Return the outermost folder that has to be made for this one."""
    missing = None
    while not os.path.lexists(folder):
        missing, folder = folder, os.path.dirname(folder)
    return missing


def _forget(name: str) -> bool:
    """Remove the lock's files if nothing else was written, as no index came about.

    Whoever waits for the file that is removed here notices, and makes it anew.
    """
    own = os.path.dirname(name)
    with suppress(OSError):
        is_bare = set(os.listdir(own)) <= {"lock", "lock-holder"}
        if is_bare and os.listdir(os.path.dirname(own)) == [os.path.basename(own)]:
            for file in (f"{name}-holder", name):
                os.unlink(file)
            return True
    return False


def _remove_empty(folder: str, first_made: str) -> None:
    """Remove a folder and those above it that were made for it, as far as they are empty."""
    with suppress(OSError):
        while len(folder) >= len(first_made):
            os.rmdir(folder)
            folder = os.path.dirname(folder)


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
