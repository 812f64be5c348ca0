"""The towers as torch modules."""

from perception_encoder.model.dual_encoder import DualEncoder, TextTower
from perception_encoder.model.vision import VisionTower

__all__ = ["DualEncoder", "TextTower", "VisionTower"]
