"""Weights by the name that is known of their file, and read only where it is not."""

import importlib.util
from typing import TYPE_CHECKING

from perception_encoder.backends.graph_cache import GraphCache, KnownWeights, stamp_of
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import BackendUnavailableError

if TYPE_CHECKING:
    from perception_encoder.model import DualEncoder


def known_weights(checkpoint: Checkpoint, cache: GraphCache) -> KnownWeights:
    """Return what a checkpoint is known to hold; what was read is noted.

    Raises:
        BackendUnavailableError: it is not known and torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    known = cache.known(checkpoint.path)
    if known is None:
        stamp = stamp_of(checkpoint.path)
        _, known = read_weights(checkpoint)
        cache.note(checkpoint.path, stamp, known)
    return known


def read_weights(checkpoint: Checkpoint) -> "tuple[DualEncoder, KnownWeights]":
    """Read a checkpoint in float32.

    Raises:
        BackendUnavailableError: torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    require_torch()
    import torch

    from perception_encoder.checkpoints.load import load_model

    loaded = load_model(checkpoint, dtype=torch.float32)
    return loaded.model, KnownWeights(loaded.fingerprint, loaded.logit_scale)


def require_torch() -> None:
    """Refuse where torch is missing.

    Raises:
        BackendUnavailableError: it is.
    """
    if importlib.util.find_spec("torch") is None:
        raise BackendUnavailableError(
            "torch is needed once, to make graphs of these weights: "
            "pip install 'perception-encoder[cpu]'"
        )
