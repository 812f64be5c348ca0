"""Opens an index's model without loading a backend, where that can be spared.

When a model has been opened in full, the file of its weights is noted beside the index with its
fingerprint. As long as that file has not changed, texts are embedded straight from it.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from perception_encoder.index.schema import described_other_model
from perception_encoder.index.storage import beside, is_remote
from perception_encoder.registry import find

_SUFFIX = ".safetensors"


def open_query_model(
    index: Index, name: str | None = None, *, device: str = "auto"
) -> EmbeddingModel:
    """Open the model that embeds queries for an index.

    Args:
        index: the index.
        name: the model, where the index's own id does not lead to it (it was opened from a path).
        device: where images are computed.

    Raises:
        IndexMismatchError: the model is not the index's.
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
            `AutoModel.from_pretrained`.
    """
    name = name or index.identity.model_id
    options = ComputeOptions(device=device)
    known = open_known_model(index, name, options)
    if known is not None:
        return known
    model = AutoModel.from_pretrained(name, device=device, preprocess=index.identity.preprocess)
    index.check(model.identity)
    note_weights(index, name)
    return model


def open_known_model(index: Index, name: str, options: ComputeOptions) -> EmbeddingModel | None:
    """Open the model if its file is the one that was noted; a backend comes with the first image.

    Args:
        index: the index, whose preprocessing the model gets.
        name: the model.
        options: for the backend.

    Returns:
        None where the weights are not known to be the index's.

    Raises:
        IndexMismatchError: the name is that of another model; nothing has been downloaded.
        UnknownModelError, DownloadError: as `AutoModel.from_pretrained`.
    """
    refuse_another(index, name)
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
    except (CheckpointError, UnsupportedOperationError):  # the backend tells what is wrong
        return None


def note_weights(index: Index, name: str) -> None:
    """Note that the model of that name, as its file is now, has the index's weights."""
    checkpoint = locate(name, local_files_only=True)
    if checkpoint.path.suffix != _SUFFIX or is_remote(index.path):
        return
    path = Path(beside(index.path, "weights.json"))
    with suppress(OSError):  # a folder that cannot be written only costs time
        path.parent.mkdir(exist_ok=True)
        passing = path.with_name(f"{path.name}.{os.getpid()}")
        passing.write_text(json.dumps(_note_of(checkpoint, index.identity.fingerprint)))
        passing.replace(path)


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
            raise IndexMismatchError(described_other_model(index.path, index.identity, model_id))


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
        note: dict[str, Any] = json.loads(Path(beside(index.path, "weights.json")).read_bytes())
    except (OSError, ValueError):  # none yet, or half of one
        return None
    return note
