"""Creates, opens and locks Lance datasets, and wraps their errors."""

from __future__ import annotations

import os
import re
import shlex
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from perception_encoder.errors import (
    IndexBusyError,
    IndexExistsError,
    IndexNotFoundError,
    IndexStorageError,
    PerceptionEncoderError,
)

if TYPE_CHECKING:
    import lance
    import pyarrow as pa
    from filelock import FileLock


Session: TypeAlias = Any
"""`lance.Session`, which has no types."""

_OWN_FOLDER: Final = "_pe"
_KNOWN_FOLDERS: Final = frozenset(("_indices", "_transactions", "_versions", "data", _OWN_FOLDER))
_MAX_REASON: Final = 500  # characters; some of Lance's messages hold whole schemas
# Lance uses the first three alike; damaged files cause the others.
_STORAGE_ERRORS: Final = (OSError, ValueError, RuntimeError, LookupError, TypeError, OverflowError)
_RUST_PLACE: Final = re.compile(r",? /\S+\.rs:\d+:\d+")
_REMOTE_LAYERS: Final = re.compile(
    r"External error: |LanceError\(\w+\): |Generic N/A error: |"
    r", max_retries: \d+, retry_timeout: \w+"
)
_INDEX_CACHE_BYTES: Final = 6 << 30  # the vector index of 14 million rows of 1,024 dimensions
_METADATA_CACHE_BYTES: Final = 1 << 30
_TRIES: Final = 100
_WAIT_FOR_EVER: Final = -1
_SECONDS_TO_WAIT: Final = 0.2  # another process may be about to release the lock


FILE_VERSION: Final = "2.1"
"""Lance's version of data files. In those of 2.2, taking a row decodes a page of a million for each
column that has the same value in all rows (Lance 14)."""


def create_dataset(path: str, schema: pa.Schema) -> lance.LanceDataset:
    """Create an empty dataset, also where an interrupted attempt left folders.

    Raises:
        IndexExistsError: a dataset, or something else, is there.
        IndexStorageError: it cannot be written.
    """
    import lance

    check_free(path)
    with storage_errors(path):
        if not is_remote(path):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        try:
            return lance.write_dataset(
                schema.empty_table(), path, mode="create", data_storage_version=FILE_VERSION
            )
        except OSError as err:
            if "already exists" not in str(err):
                raise
            raise IndexExistsError(
                f"{path} is an index already; open it, or choose another folder with --index"
            ) from err


def check_free(path: str) -> None:
    """Check that a dataset can be created there.

    Raises:
        IndexExistsError: something else is there.
        IndexStorageError: it cannot be read.
    """
    with storage_errors(path):
        if not _is_free(path):
            raise IndexExistsError(f"{path} holds other things; choose a new folder with --index")


def empty_dataset(schema: pa.Schema) -> lance.LanceDataset:
    """Return an empty dataset in memory."""
    import lance

    return lance.write_dataset(schema.empty_table(), f"memory://{uuid.uuid4().hex}")


def open_dataset(path: str, session: Session | None = None) -> lance.LanceDataset:
    """Open the latest version of a dataset.

    Args:
        path: of it.
        session: what was read of other versions, such as a vector index, is reused from there.

    Raises:
        IndexNotFoundError: there is none.
        IndexStorageError: it cannot be read.
    """
    import lance

    with storage_errors(path):
        try:
            dataset = lance.dataset(path, session=session)
            _ = dataset.schema  # Lance reads it late; an error belongs here
            return dataset
        except (ValueError, OSError) as err:
            if "was not found" not in str(err) and not os.path.isfile(path):
                raise
            raise IndexNotFoundError(
                f"there is no index at {path}; "
                f"make one: pe index FOLDER --index {shlex.quote(path)}"
            ) from err


def open_session(path: str) -> Session | None:
    """Return an empty cache for the versions of an index on object storage.

    Without one, each version that a reader opens would read the vector index again. Files of this
    machine are cached by the operating system.
    """
    if not is_remote(path):
        return None
    import lance

    return lance.Session(_INDEX_CACHE_BYTES, _METADATA_CACHE_BYTES)  # type: ignore[attr-defined]


def sidecar_path(path: str, name: str) -> str:
    """Return the path of a file of ours inside the index's folder.

    It is moved, copied and deleted with the index. Lance ignores other folders.
    """
    return f"{path.rstrip('/')}/{_OWN_FOLDER}/{name}"


def is_remote(path: str) -> bool:
    """Whether the index is on object storage."""
    return "://" in path


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Raise errors of Lance and the file system as `IndexStorageError`."""
    try:
        yield
    except PerceptionEncoderError:
        raise
    except BaseException as err:
        if not isinstance(err, _STORAGE_ERRORS) and not _is_panic(err):
            raise
        reason = shorten_error(err)[:_MAX_REASON]
        if is_remote(path):
            raise IndexStorageError(
                f"{path}: the object store failed: {_REMOTE_LAYERS.sub('', reason)}; check that it "
                "answers, and the credentials. Rows committed before are kept, and the same "
                "command goes on from there"
            ) from err
        raise IndexStorageError(
            f"{path}: reading or writing the index failed: {reason}; check the free space and the "
            f"permissions, and look for damaged files with: pe doctor --index {shlex.quote(path)}. "
            "Rows committed before are kept"
        ) from err


def _is_panic(err: BaseException) -> bool:
    """Whether Lance panicked. The class of pyo3 for that is not an `Exception`."""
    return type(err).__name__ == "PanicException"


def shorten_error(err: BaseException) -> str:
    """Return Lance's message without locations in its source code."""
    return _RUST_PLACE.sub("", str(err)).removeprefix("Invalid user input: ").rstrip(". \n")


def _is_free(path: str) -> bool:
    """Whether a dataset can be created there without mixing it with other files."""
    if is_remote(path) or not os.path.lexists(path):
        return True
    if not os.path.isdir(path):
        return False
    names = {name for name in os.listdir(path) if name != ".DS_Store"}
    return not names - {_OWN_FOLDER} or ("_transactions" in names and names <= _KNOWN_FOLDERS)


@contextmanager
def write_lock(path: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the index's write lock. Folders that were created only for the lock are removed.

    Args:
        path: of the index.
        wait: wait for another writer instead of raising.

    Raises:
        IndexBusyError: another process or thread holds it; the message has its PID.
        IndexStorageError: the folder cannot be written.
    """
    if is_remote(path):
        yield
        return
    from filelock import FileLock, Timeout

    name = sidecar_path(path, "lock")
    with storage_errors(path):
        lock = FileLock(name, timeout=_WAIT_FOR_EVER if wait else _SECONDS_TO_WAIT)
        try:
            first_made = _acquire(lock, os.path.dirname(os.path.abspath(name)))
        except Timeout as err:
            raise IndexBusyError(
                f"{path}: {_read_holder(name)} is writing to this index; wait until it is done "
                "(pe index --wait does), or write to another index"
            ) from err
    try:
        _write_holder(name)
        yield
    finally:
        is_forgotten = _remove_if_unused(name)
        lock.release()
        if is_forgotten:
            own = os.path.dirname(os.path.abspath(name))
            _remove_empty(own, first_made or own)


def is_being_written(path: str) -> bool | None:
    """Whether a process holds the index's write lock. Nothing is written.

    Returns:
        None if that is unknown: on object storage, or on a file system without locks.
    """
    if is_remote(path):
        return None
    try:
        import fcntl
    except ImportError:  # Windows
        return _is_locked(sidecar_path(path, "lock"))
    try:
        descriptor = os.open(sidecar_path(path, "lock"), os.O_RDONLY | os.O_NONBLOCK)
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
    """Whether the lock is held; None if that is unknown."""
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
    """Acquire the lock; return the outermost folder that was created for it."""
    first_made = None
    for left in reversed(range(_TRIES)):
        try:
            first_made = _first_missing(folder) or first_made
            os.makedirs(folder, exist_ok=True)
            lock.acquire()
            break
        except (FileNotFoundError, FileExistsError):  # just removed by a run that wrote nothing
            if not left:
                raise
    return first_made


def _first_missing(folder: str) -> str | None:
    """Return the outermost parent that does not exist."""
    missing = None
    while not os.path.lexists(folder):
        missing, folder = folder, os.path.dirname(folder)
    return missing


def _remove_if_unused(name: str) -> bool:
    """Remove the lock's files if no index was created.

    A process that waits for the removed file notices and creates it again.
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
    """Remove a folder and the parents that were created for it, while they are empty."""
    with suppress(OSError):
        while len(folder) >= len(first_made):
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def _write_holder(name: str) -> None:
    """Write the PID of the holder, for the message of other processes."""
    with storage_errors(name), open(f"{name}-holder", "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {time.strftime('%H:%M:%S')}")


def _read_holder(name: str) -> str:
    try:
        with open(f"{name}-holder", encoding="utf-8") as file:
            pid, since = file.read().split()
    except (OSError, ValueError):  # not written yet
        return "another process"
    return f"process {pid} (since {since})"
