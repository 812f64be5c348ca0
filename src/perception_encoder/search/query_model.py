"""Open an index's model, without a backend if that is enough.

Opening a model in full notes which file holds its weights. As long as that file is unchanged, texts
are embedded straight from it.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from perception_encoder.auto import open_checkpoint, open_for_texts
from perception_encoder.backends import ComputeOptions
from perception_encoder.checkpoints import Checkpoint, locate
from perception_encoder.checkpoints.known_weights import find_known_weights
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import (
    CheckpointError,
    IndexMismatchError,
    UnknownModelError,
    UnsupportedOperationError,
)
from perception_encoder.index import Index
from perception_encoder.index.schema import describe_other_model
from perception_encoder.registry import find
from perception_encoder.types import PreprocessName


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
    checkpoint = locate(name)
    model = _open_for_texts(index, checkpoint, options)
    if model is None:
        model = open_checkpoint(checkpoint, options, preprocess=identity.preprocess)
        index.check(model.identity)
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


def _open_for_texts(
    index: Index, checkpoint: Checkpoint, options: ComputeOptions
) -> EmbeddingModel | None:
    """Open a checkpoint for texts; None if its file is not known to hold the index's weights."""
    known, identity = find_known_weights(checkpoint, options.graph_cache), index.identity
    if known is None or known.fingerprint != identity.fingerprint:
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
