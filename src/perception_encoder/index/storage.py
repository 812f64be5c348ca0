"""Lance datasets: made, opened, and their failures told in our words. Knows no columns."""

from __future__ import annotations

import os
import re
import shlex
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import (
    IndexExistsError,
    IndexNotFoundError,
    IndexStorageError,
    PerceptionEncoderError,
)

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_OWN_FOLDER: Final = "_pe"
_KNOWN_FOLDERS: Final = frozenset(("_transactions", "_versions", "data", _OWN_FOLDER))
_MAX_REASON: Final = 500  # characters; some of Lance's messages hold whole schemas
# Lance uses the first three for the same things; the others come of files that are damaged.
_STORAGE_ERRORS: Final = (OSError, ValueError, RuntimeError, LookupError, TypeError, OverflowError)
_RUST_PLACE: Final = re.compile(r",? /\S+\.rs:\d+:\d+")


def create_dataset(path: str, schema: pa.Schema) -> lance.LanceDataset:
    """Make an empty dataset, also where an interrupted attempt left its folders.

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
            return lance.write_dataset(schema.empty_table(), path, mode="create")
        except OSError as err:
            if "already exists" not in str(err):
                raise
            raise IndexExistsError(
                f"{path} is a table already; open it, or choose another folder with --db"
            ) from err


def check_free(path: str) -> None:
    """See whether a dataset can be created there.

    Raises:
        IndexExistsError: something else is there.
        IndexStorageError: it cannot be read.
    """
    with storage_errors(path):
        if not _is_free(path):
            raise IndexExistsError(f"{path} holds other things; choose a new folder with --db")


def empty_dataset(schema: pa.Schema) -> lance.LanceDataset:
    """Return a dataset without rows that is in memory only."""
    import lance

    return lance.write_dataset(schema.empty_table(), f"memory://{uuid.uuid4().hex}")


def open_dataset(path: str) -> lance.LanceDataset:
    """Open the latest version of a dataset.

    Raises:
        IndexNotFoundError: there is none.
        IndexStorageError: it cannot be read.
    """
    import lance

    with storage_errors(path):
        try:
            dataset = lance.dataset(path)
            _ = dataset.schema  # read at the first use, where nobody expects that it fails
            return dataset
        except (ValueError, OSError) as err:
            if "was not found" not in str(err) and not os.path.isfile(path):
                raise
            raise IndexNotFoundError(
                f"there is no index at {path}; make one: pe index FOLDER --db {shlex.quote(path)}"
            ) from err


def beside(path: str, name: str) -> str:
    """Return where something that belongs to a table lies: inside its folder, apart from Lance's.

    So it is moved, copied and deleted with the table. Lance leaves folders of others alone.
    """
    return f"{path.rstrip('/')}/{_OWN_FOLDER}/{name}"


def is_remote(path: str) -> bool:
    """Whether the table lies on object storage rather than in a folder of this machine."""
    return "://" in path


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turn what Lance and the file system raise into `IndexStorageError`."""
    try:
        yield
    except PerceptionEncoderError:
        raise
    except BaseException as err:
        if not isinstance(err, _STORAGE_ERRORS) and not _is_panic(err):
            raise
        raise IndexStorageError(
            f"{path}: reading or writing the table failed: {plain(err)[:_MAX_REASON]}; check space "
            f"and permissions, and for damaged files with: pe doctor --index {shlex.quote(path)}. "
            "What was committed before is kept"
        ) from err


def _is_panic(err: BaseException) -> bool:
    """Whether a thread of Lance gave up. No `Exception` is the parent of pyo3's class for that."""
    return type(err).__name__ == "PanicException"


def plain(err: BaseException) -> str:
    """Return Lance's message without the places in its source code, to go on after it."""
    return _RUST_PLACE.sub("", str(err)).removeprefix("Invalid user input: ").rstrip(". \n")


def _is_free(path: str) -> bool:
    """Whether a dataset can be made there without mixing it with somebody's files."""
    if is_remote(path) or not os.path.lexists(path):
        return True
    if not os.path.isdir(path):
        return False
    names = {name for name in os.listdir(path) if name != ".DS_Store"}
    return not names - {_OWN_FOLDER} or ("_transactions" in names and names <= _KNOWN_FOLDERS)
