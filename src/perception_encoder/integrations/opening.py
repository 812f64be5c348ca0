"""How the adapters of other libraries get their model, and embed words and images side by side.

Libraries that keep an adapter's settings with an index make the adapter anew at every call. So a
model that is asked for by name is opened once in a process and shared.
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
_KEPT: Final[dict[_Key, EmbeddingModel]] = {}  # what was asked for last stands last
_LOCK: Final = threading.Lock()


class OpenOptions(TypedDict, total=False):
    """Options of `AutoModel.from_pretrained` that adapters pass on."""

    device: str
    backend: BackendName | Literal["auto"]
    precision: Precision | Literal["auto"]
    preprocess: PreprocessName | None
    revision: str | None
    local_files_only: bool


def opened(model: ModelLike, **options: Unpack[OpenOptions]) -> EmbeddingModel:
    """Return the model of that name, opened with these options; the same object every time.

    At least the four that were asked for last stay open. A model that is given is returned as it
    is.

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
        # An index gives the preprocessing by its name, where the one who made it gave none.
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
    """Refuse a model whose weights are not those that an index was made with.

    Args:
        model: the one that was opened by the name that the index gives.
        expected: the fingerprint that the index gives; None where it gives none.

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
    """Embed texts and images that stand in one list.

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
