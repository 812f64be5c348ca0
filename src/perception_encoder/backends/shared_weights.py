"""A copy of a model to change modules of, without copying its weights."""

import copy

from perception_encoder.model import DualEncoder


def copy_sharing_weights(model: DualEncoder) -> DualEncoder:
    """Return a model with modules of its own and the very parameters of the given one."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    changed: DualEncoder = copy.deepcopy(model, shared)
    return changed
