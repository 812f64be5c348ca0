"""The indexes that the blocks of a process share, and what blocks may reach of the host's files.

Roboflow's hosts say whether blocks may use local storage, and under which folder they may write.
Workflows can come from strangers, so indexes and models at paths keep to that.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from perception_encoder.errors import IndexStorageError
from perception_encoder.index import Index, write_lock
from perception_encoder.types import ModelIdentity


class Indexes:
    """Opens each index once; methods may be called from any thread.

    Args:
        local_storage: whether blocks may use the host's files at all.
        write_folder: where they may write; None for anywhere.
    """

    def __init__(self, *, local_storage: bool = True, write_folder: str | None = None) -> None:
        self._local_storage: Final = local_storage
        self._write_folder: Final = None if write_folder is None else Path(write_folder).resolve()
        self._lock = threading.Lock()
        self._opened: dict[str, Index] = {}
        self._turns: dict[str, threading.Lock] = {}

    def open(self, path: str) -> Index:
        """Return an index with all that was committed to it until now.

        Raises:
            IndexNotFoundError: there is none at that path.
            IndexStorageError: it cannot be read, or blocks may not read files here.
        """
        self.check_read(path)
        path = _absolute(path)
        with self._lock:
            index = self._opened.get(path)
            if index is None:
                index = self._opened[path] = Index.open(path)
                return index
        index.refresh()
        return index

    def open_or_create(self, path: str, identity: ModelIdentity) -> Index:
        """Return the index, which is made if there is none.

        Raises:
            IndexMismatchError: it holds another model's vectors.
            IndexExistsError: something that is no index is there.
            IndexStorageError: it cannot be written, or blocks may not write there.
        """
        self.check_write(path)
        path = _absolute(path)
        with self._lock:
            index = self._opened.get(path)
            if index is None:
                index = Index.open_or_create(path, identity)
                self._opened[path] = index
        index.check(identity)
        return index

    @contextmanager
    def writing(self, index: Index) -> Iterator[None]:
        """Hold the index's write lock, once other threads and processes are done.

        Threads of this process queue for it: the lock itself is a file that is looked at now and
        then.

        Raises:
            IndexStorageError: the index's folder cannot be written.
        """
        with self._lock:
            turn = self._turns.setdefault(index.path, threading.Lock())
        with turn, write_lock(index.path, wait=True):
            yield

    def check_read(self, path: str) -> None:
        """Make sure that blocks may read files.

        Raises:
            IndexStorageError: they may not.
        """
        if not self._local_storage:
            raise IndexStorageError(
                f"{path}: blocks may not use this host's files "
                "(ALLOW_WORKFLOW_BLOCKS_ACCESSING_LOCAL_STORAGE)"
            )

    def check_write(self, path: str) -> None:
        """Make sure that blocks may write to a path.

        Raises:
            IndexStorageError: they may not.
        """
        self.check_read(path)
        folder = self._write_folder
        if folder is not None and not Path(_absolute(path)).resolve().is_relative_to(folder):
            raise IndexStorageError(
                f"{path}: blocks may write under {folder} only (WORKFLOW_BLOCKS_WRITE_DIRECTORY)"
            )

    def check_model(self, name: str) -> None:
        """Make sure that a model's name leads to no file that blocks may not read.

        Raises:
            IndexStorageError: it does.
        """
        if os.path.exists(name):
            self.check_read(name)


@cache
def shared_indexes() -> Indexes:
    """Return the indexes of this process, with what its host allows."""
    from perception_encoder.integrations.workflows.block import (
        ALLOWS_LOCAL_STORAGE,
        WRITE_FOLDER,
    )

    return Indexes(local_storage=ALLOWS_LOCAL_STORAGE, write_folder=WRITE_FOLDER)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)
