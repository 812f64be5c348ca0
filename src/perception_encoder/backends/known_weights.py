"""Weights by the name that is known of their file, and read only where it is not."""

import importlib.util
from typing import TYPE_CHECKING

from perception_encoder.backends.graph_cache import GraphCache, KnownWeights, stamp_of
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import on_usable_thread

if TYPE_CHECKING:
    from perception_encoder.checkpoints.load import Loaded


def known_weights(checkpoint: Checkpoint, cache: GraphCache) -> KnownWeights:
    """Return what a checkpoint is known to hold; what was read is noted.

    Raises:
        BackendUnavailableError: it is not known and torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    known = cache.known(checkpoint.path, checkpoint.config)
    if known is None:
        stamp = stamp_of(checkpoint.path)
        loaded = read_weights(checkpoint)
        known = KnownWeights(loaded.fingerprint, loaded.logit_scale)
        cache.note(checkpoint.path, checkpoint.config, stamp, known)
    return known


def read_weights(checkpoint: Checkpoint) -> "Loaded":
    """Read a checkpoint in float32.

    Raises:
        BackendUnavailableError: torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    require_torch()
    import torch

    from perception_encoder.checkpoints.load import load_model

    return on_usable_thread(lambda: load_model(checkpoint, dtype=torch.float32))


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
