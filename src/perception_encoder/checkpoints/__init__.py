"""From a model's name to its weights: find them, read every public format, fill the module.

`locate` and what it needs import no torch, so listing and downloading models is quick; `load`,
`random_weights` and `save` do.
"""

from perception_encoder.checkpoints.hub import download, is_cached
from perception_encoder.checkpoints.locate import Checkpoint, locate

__all__ = ["Checkpoint", "download", "is_cached", "locate"]
