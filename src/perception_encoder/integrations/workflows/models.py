"""The models that the blocks of a process share. Knows nothing of workflows.

A workflow is compiled anew for every request in some hosts, so models belong to the process.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Final, Protocol

import numpy as np

from perception_encoder.auto import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import UnknownModelError
from perception_encoder.index import Index
from perception_encoder.registry import find
from perception_encoder.types import Embeddings, PreprocessName

DEFAULT_MODEL: Final = "PE-Core-L14-336"  # that of the stock block

_REMEMBERED_TEXTS: Final = 4096  # 16 MiB of vectors of 1024 numbers


class OpenModel(Protocol):
    """Opens a model by name or path, as `AutoModel.from_pretrained` does."""

    def __call__(self, name: str, /, *, preprocess: PreprocessName | None) -> EmbeddingModel:
        """See `AutoModel.from_pretrained`."""


class Models:
    """Opens each model once; methods may be called from any thread.

    Args:
        open_model: how. With `functools.partial(AutoModel.from_pretrained, device="cuda")` blocks
            compute elsewhere or otherwise than by default.
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

    def text_vectors(self, model: EmbeddingModel, texts: Sequence[str]) -> Embeddings:
        """Embed texts, and remember them: labels and prompts come again with every frame.

        Args:
            model: one that this object opened.
            texts: N of them.

        Returns:
            (N, E) float32 of unit length.
        """
        keys = [(id(model), text) for text in texts]  # models are never closed, so ids stay theirs
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
def shared_models() -> Models:
    """Return the models of this process, opened as the machine does best."""
    return Models()


def _one_spelling(name: str) -> str:
    """Return a registered model's id; what is a path, or unknown, stays."""
    if not os.path.exists(name):
        with suppress(UnknownModelError):
            return find(name).id
    return name
