"""The towers as torch modules, and nothing else: no files, no network, no device choice."""

from perception_encoder.model.dual_encoder import DualEncoder, TextTower
from perception_encoder.model.vision import VisionTower

__all__ = ["DualEncoder", "TextTower", "VisionTower"]
