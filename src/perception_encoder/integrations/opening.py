"""What adapters for other libraries share: models by name, and mixed texts and images.

Libraries that store an adapter's settings with an index create the adapter anew at every call, so a
model is opened once in a process and shared.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack

import numpy as np

from perception_encoder.auto import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexMismatchError
from perception_encoder.types import BackendName, Embeddings, Precision, PreprocessName

ModelLike: TypeAlias = str | os.PathLike[str] | EmbeddingModel
"""What `AutoModel.from_pretrained` opens, or a model that is open."""

_Key: TypeAlias = tuple[object, ...]

_NUM_KEPT: Final = 8
_KEPT: Final[dict[_Key, EmbeddingModel]] = {}  # most recently used last
_LOCK: Final = threading.Lock()


class OpenOptions(TypedDict, total=False):
    """Options of `AutoModel.from_pretrained` that adapters pass on."""

    device: str
    backend: BackendName | Literal["auto"]
    precision: Precision | Literal["auto"]
    preprocess: PreprocessName | None
    revision: str | None
    local_files_only: bool


def open_shared(model: ModelLike, **options: Unpack[OpenOptions]) -> EmbeddingModel:
    """Return the model of a name, opened with these options; the same object every time.

    At least the four models used last stay open. A model object is returned as it is.

    Raises:
        TypeError: options for a model that is open already.
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as for
            `AutoModel.from_pretrained`.
    """
    if isinstance(model, EmbeddingModel):
        if options:
            raise TypeError(f"{model!r} is open already; {', '.join(options)} cannot change it")
        return model
    name = os.fspath(model)
    key = _key(name, options)
    with _LOCK:  # two threads that ask for one model at once get one
        found = _KEPT.pop(key, None) or AutoModel.from_pretrained(name, **options)
        # An index stores the name of the preprocessing, also where the default was used.
        named = _key(name, {**options, "preprocess": found.processor.name})
        _KEPT.pop(named, None)
        _KEPT[key] = _KEPT[named] = found
        while len(_KEPT) > _NUM_KEPT:
            del _KEPT[next(iter(_KEPT))]
    return found


def _key(name: str, options: OpenOptions) -> _Key:
    return (
        name,
        options.get("device", "auto"),
        options.get("backend", "auto"),
        options.get("precision", "auto"),
        options.get("preprocess"),
        options.get("revision"),
        options.get("local_files_only", False),
    )


def check_weights(model: EmbeddingModel, expected: str | None) -> None:
    """Refuse a model whose weights differ from those that an index was made with.

    Args:
        model: opened by the name that the index stores.
        expected: the fingerprint that the index stores; None where it stores none.

    Raises:
        IndexMismatchError: the weights differ.
    """
    found = model.identity.fingerprint
    if expected is not None and found != expected:
        raise IndexMismatchError(
            f"the vectors were made with weights {expected}, but {model.config.id} has weights "
            f"{found} here; vectors of both do not compare. Put the first weights back, or embed "
            "everything anew"
        )


def embed_mixed(
    model: EmbeddingModel, items: Sequence[Any], is_text: Sequence[bool], **options: Any
) -> Embeddings:
    """Embed texts and images of one list.

    Args:
        model: reads both.
        items: in any order; arrays are RGB.
        is_text: for each item, whether it is a text.
        **options: of both `embed_text` and `embed_images`.

    Returns:
        (N, E) float32, a row for each item, in order.

    Raises:
        ImageError: an image cannot be used.
    """
    texts = [row for row, text in enumerate(is_text) if text]
    images = [row for row, text in enumerate(is_text) if not text]
    parts = []
    if texts or not images:
        parts.append(model.embed_text([items[row] for row in texts], **options))
    if images:
        chosen = [items[row] for row in images]
        parts.append(model.embed_images(chosen, input_color_format="rgb", **options))
    stacked = np.concatenate(parts)
    vectors = np.empty_like(stacked)
    vectors[[*texts, *images]] = stacked
    return vectors
