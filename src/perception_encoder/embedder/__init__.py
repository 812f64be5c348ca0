"""The object people hold: `EmbeddingModel`, with its feeds and its cache."""

from perception_encoder.embedder.model import EmbeddingModel

__all__ = ["EmbeddingModel"]
