"""Open an index's model, without a backend if that is enough.

Opening a model in full notes which file holds its weights. As long as that file is unchanged, texts
are embedded straight from it.
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from perception_encoder.auto import open_checkpoint, open_for_texts
from perception_encoder.backends import ComputeOptions
from perception_encoder.checkpoints import Checkpoint, locate
from perception_encoder.checkpoints.known_weights import find_known_weights, identify_towers
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.text_tower import find_text_twin
from perception_encoder.errors import (
    CheckpointError,
    IndexMismatchError,
    PerceptionEncoderError,
    UnknownModelError,
)
from perception_encoder.forking import run_on_usable_thread
from perception_encoder.index import Index
from perception_encoder.index.schema import describe_other_model
from perception_encoder.registry import find
from perception_encoder.types import ModelIdentity, PreprocessName


def open_index_model(
    index: Index,
    name: str | None = None,
    options: ComputeOptions | None = None,
    *,
    preprocess: PreprocessName | None = None,
) -> EmbeddingModel:
    """Open the model of an index. A backend is loaded with the first image if that is enough.

    A vision-only model gets the text tower of its twin with the first text.

    Args:
        index: the index.
        name: the model, where the index's own id does not lead to it (it was opened from a path);
            or the twin of the index's model, if their vision towers are the same.
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
        opened = open_checkpoint(checkpoint, options, preprocess=identity.preprocess)
        model = match_model(index, opened)
    model.attaches_text_tower = True
    return model


def match_model(index: Index, model: EmbeddingModel) -> EmbeddingModel:
    """Return a model as one whose embeddings an index may hold.

    That is the model itself, or for a twin of the index's model the same under the index's
    identity. Twins are a vision-only model and the model that has its vision tower and a text
    tower. The id is not enough: the fingerprints of both vision towers must be equal. An index of
    the vision-only model has that fingerprint; one of the other model has the fingerprint of both
    towers, so the file of that model must be on this machine.

    Raises:
        IndexMismatchError: the embeddings cannot be compared.
    """
    stored, own = index.identity, model.identity
    is_alike = replace(own, model_id=stored.model_id, fingerprint=stored.fingerprint) == stored
    if is_alike and _are_twins(stored.model_id, own.model_id):
        wanted = _vision_tower_of(stored)
        if wanted is None:
            raise IndexMismatchError(
                f"the index at {index.path} was made with {stored.model_id}, the twin of "
                f"{own.model_id}. It has the fingerprint of both towers together, so the file of "
                f"{stored.model_id} with these weights must be on this machine to see that the "
                f"vision towers are the same: pe download {stored.model_id}; or use that model "
                f"(--model {stored.model_id})"
            )
        if model.identify_vision_tower() == wanted:
            return model.seen_as(stored)
    index.check(model.identity)
    return model


def _are_twins(model_id: str, other_id: str) -> bool:
    twins = (find_text_twin(model_id), find_text_twin(other_id))
    ids = (other_id, model_id)
    return any(twin is not None and twin.id == one for twin, one in zip(twins, ids, strict=True))


def _vision_tower_of(identity: ModelIdentity) -> str | None:
    """Return the fingerprint of the vision tower alone that an index's embeddings are of."""
    if find_text_twin(identity.model_id) is not None:  # a vision-only model
        return identity.fingerprint
    try:
        checkpoint = locate(identity.model_id, local_files_only=True)
        whole, vision = run_on_usable_thread(partial(identify_towers, checkpoint))
    except PerceptionEncoderError:  # it is not here
        return None
    return vision if whole == identity.fingerprint else None


def refuse_another(index: Index, name: str) -> None:
    """Refuse a registered model by its name: its weights may be gigabytes away.

    Raises:
        IndexMismatchError: the name is that of another model than the index's.
    """
    if Path(name).expanduser().exists():  # a path wins over a name
        return
    with suppress(UnknownModelError):
        model_id = find(name).id
        if model_id != index.identity.model_id and not _are_twins(
            model_id, index.identity.model_id
        ):
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
    except CheckpointError:  # the backend reports what is wrong
        return None
