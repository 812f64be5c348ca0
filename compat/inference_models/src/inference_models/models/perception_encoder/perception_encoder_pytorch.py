"""The model class and its preprocessing, under the original's module path."""

from perception_encoder.integrations.roboflow_model import (
    PerceptionEncoderTorch,
    create_preprocessor,
)

__all__ = ["PerceptionEncoderTorch", "create_preprocessor"]
