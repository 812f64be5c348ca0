"""Models and indexes that the blocks of a process share. Knows nothing of workflows.

Some hosts compile a workflow anew for every request, so both belong to the process. Roboflow's
hosts say whether blocks may use local storage, and under which folder they may write. A workflow
can come from anyone, so models and indexes at paths keep to that.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from perception_encoder.auto import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexStorageError, UnknownModelError
from perception_encoder.index import Index, write_lock
from perception_encoder.registry import find
from perception_encoder.types import Embeddings, ModelIdentity, PreprocessName

DEFAULT_MODEL: Final = "PE-Core-L14-336"  # that of the stock block

_REMEMBERED_TEXTS: Final = 4096  # 16 MiB of vectors of 1024 numbers


class OpenModel(Protocol):
    """Opens a model by name or path, as `AutoModel.from_pretrained` does."""

    def __call__(self, name: str, /, *, preprocess: PreprocessName | None) -> EmbeddingModel:
        """See `AutoModel.from_pretrained`."""


class Models:
    """Opens each model once; methods may be called from any thread.

    Args:
        open_model: opens a model; for another device give
            `functools.partial(AutoModel.from_pretrained, device="cuda")`.
    """

    def __init__(self, open_model: OpenModel = AutoModel.from_pretrained) -> None:
        self._open_model = open_model
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, PreprocessName | None], EmbeddingModel] = {}
        self._texts_lock = threading.Lock()
        self._texts: OrderedDict[tuple[int, str], Embeddings] = OrderedDict()

    def get(self, name: str, preprocess: PreprocessName | None = None) -> EmbeddingModel:
        """Return a model, which is opened if it has not been.

        Args:
            name: a model's id in any spelling, or a path.
            preprocess: how images are brought to its size; None is the model's own way.

        Raises:
            UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
                `AutoModel.from_pretrained`.
        """
        name = _one_spelling(name)
        model = self._opened.get((name, preprocess))
        if model is not None:
            return model
        with self._lock:
            if (name, preprocess) not in self._opened:
                model = self._open_model(name, preprocess=preprocess)
                self._opened[name, preprocess] = model
                self._opened.setdefault((name, model.processor.name), model)
            return self._opened[name, preprocess]

    def of_index(self, index: Index, name: str | None = None) -> EmbeddingModel:
        """Return the model whose vectors an index holds.

        Args:
            index: the index.
            name: the model, where the index's own id does not lead to it (it was opened from a
                path).

        Raises:
            IndexMismatchError: the model of that name has other weights.
            UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
                `AutoModel.from_pretrained`.
        """
        model = self.get(name or index.identity.model_id, index.identity.preprocess)
        index.check(model.identity)
        return model

    def embed_texts(self, model: EmbeddingModel, texts: Sequence[str]) -> Embeddings:
        """Embed texts, cached: labels and prompts are the same for every frame.

        Args:
            model: one that this object opened.
            texts: N of them.

        Returns:
            (N, E) float32 of unit length.
        """
        keys = [(id(model), text) for text in texts]  # models are never closed
        with self._texts_lock:
            known = {key: self._texts[key] for key in keys if key in self._texts}
        new = list(dict.fromkeys(key for key in keys if key not in known))
        if new:
            vectors = model.embed_text([text for _, text in new], show_progress=False)
            known |= zip(new, vectors, strict=True)
        with self._texts_lock:
            for key in keys:
                self._texts[key] = known[key]
                self._texts.move_to_end(key)
            while len(self._texts) > _REMEMBERED_TEXTS:
                self._texts.popitem(last=False)
        return np.stack([known[key] for key in keys])


@cache
def get_shared_models() -> Models:
    """Return the models of this process."""
    return Models()


def _one_spelling(name: str) -> str:
    """Return a registered model's id; a path or an unknown name as it is."""
    if not os.path.exists(name):
        with suppress(UnknownModelError):
            return find(name).id
    return name


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
        """Return an index with all rows that are committed.

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
        """Return the index; it is created if there is none.

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
        """Hold the index's write lock; wait for other threads and processes first.

        Threads of this process queue for it, since the lock is a file that is polled.

        Raises:
            IndexStorageError: the index's folder cannot be written.
        """
        with self._lock:
            turn = self._turns.setdefault(index.path, threading.Lock())
        with turn, write_lock(index.path, wait=True):
            yield

    def check_read(self, path: str) -> None:
        """Check that blocks may read files.

        Raises:
            IndexStorageError: they may not.
        """
        if not self._local_storage:
            raise IndexStorageError(
                f"{path}: blocks may not use this host's files "
                "(ALLOW_WORKFLOW_BLOCKS_ACCESSING_LOCAL_STORAGE)"
            )

    def check_write(self, path: str) -> None:
        """Check that blocks may write to a path.

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
        """Check that a model's name is not a path that blocks may not read.

        Raises:
            IndexStorageError: it does.
        """
        if os.path.exists(name):
            self.check_read(name)


@cache
def get_shared_indexes() -> Indexes:
    """Return the indexes of this process, limited to what its host allows."""
    from perception_encoder.integrations.workflows.engine import (
        ALLOWS_LOCAL_STORAGE,
        WRITE_FOLDER,
    )

    return Indexes(local_storage=ALLOWS_LOCAL_STORAGE, write_folder=WRITE_FOLDER)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)
