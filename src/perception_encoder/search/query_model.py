"""Opens an index's model, without loading a backend where that can be spared.

When a model has been opened in full, the file of its weights is noted beside the index with its
fingerprint. As long as that file has not changed, texts are embedded straight from it.
"""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception_encoder.atomic import atomic_write
from perception_encoder.auto import AutoModel, open_for_texts
from perception_encoder.backends import ComputeOptions
from perception_encoder.backends.graph_cache import stamp_of
from perception_encoder.checkpoints import Checkpoint, locate
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import (
    CheckpointError,
    IndexMismatchError,
    UnknownModelError,
    UnsupportedOperationError,
)
from perception_encoder.index import Index
from perception_encoder.index.schema import describe_other_model
from perception_encoder.index.storage import is_remote, sidecar_path
from perception_encoder.registry import find
from perception_encoder.types import PreprocessName

_SUFFIX = ".safetensors"


def open_index_model(
    index: Index,
    name: str | None = None,
    options: ComputeOptions | None = None,
    *,
    preprocess: PreprocessName | None = None,
) -> EmbeddingModel:
    """Open the model of an index. A backend is loaded with the first image if that is enough.

    Args:
        index: the index.
        name: the model, where the index's own id does not lead to it (it was opened from a path).
        options: how images are computed.
        preprocess: refuse an index with another one; None takes the index's.

    Raises:
        IndexMismatchError: the model, or the preprocessing, is not the index's.
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
            `AutoModel.from_pretrained`.
    """
    identity = index.identity
    name, options = name or identity.model_id, options or ComputeOptions()
    refuse_another(index, name)
    index.check(replace(identity, preprocess=preprocess or identity.preprocess))
    model = _open_noted(index, name, options)
    if model is None:
        model = AutoModel.from_pretrained(
            name,
            device=options.device,
            backend=options.backend,
            precision=options.precision,
            compile=options.compile,
            preprocess=identity.preprocess,
        )
        index.check(model.identity)
        note_weights(index, name)
    return model


def refuse_another(index: Index, name: str) -> None:
    """Refuse a registered model by its name: its weights may be gigabytes away.

    Raises:
        IndexMismatchError: the name is that of another model than the index's.
    """
    if Path(name).expanduser().exists():  # a path wins over a name
        return
    with suppress(UnknownModelError):
        model_id = find(name).id
        if model_id != index.identity.model_id:
            raise IndexMismatchError(describe_other_model(index.path, index.identity, model_id))


def note_weights(index: Index, name: str) -> None:
    """Note that the model of that name, as its file is now, has the index's weights."""
    checkpoint = locate(name, local_files_only=True)
    if checkpoint.path.suffix != _SUFFIX or is_remote(index.path):
        return
    path = Path(sidecar_path(index.path, "weights.json"))
    with suppress(OSError):  # a folder that cannot be written only costs time
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(_note_of(checkpoint, index.identity.fingerprint)))


def _open_noted(index: Index, name: str, options: ComputeOptions) -> EmbeddingModel | None:
    """Open the model for texts if its file is the one that was noted; None if it is not."""
    checkpoint, identity = locate(name), index.identity
    if _note_of(checkpoint, identity.fingerprint) != _read_note(index):
        return None
    try:
        return open_for_texts(
            checkpoint,
            fingerprint=identity.fingerprint,
            preprocess=identity.preprocess,
            options=options,
        )
    except (CheckpointError, UnsupportedOperationError):  # the backend reports what is wrong
        return None


def _note_of(checkpoint: Checkpoint, fingerprint: str) -> dict[str, Any]:
    return {
        "file": stamp_of(checkpoint.path),
        "config": checkpoint.config.digest(),
        "fingerprint": fingerprint,
    }


def _read_note(index: Index) -> dict[str, Any] | None:
    if is_remote(index.path):
        return None
    try:
        note: dict[str, Any] = json.loads(
            Path(sidecar_path(index.path, "weights.json")).read_bytes()
        )
    except (OSError, ValueError):  # none yet, or half of one
        return None
    return note
