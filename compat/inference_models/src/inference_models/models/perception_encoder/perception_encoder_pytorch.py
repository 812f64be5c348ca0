"""The model class and its preprocessing, under the original's module path."""

from perception_encoder.integrations.roboflow_model import PerceptionEncoderTorch
from perception_encoder.integrations.roboflow_pictures import create_preprocessor

__all__ = ["PerceptionEncoderTorch", "create_preprocessor"]
