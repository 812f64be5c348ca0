"""The object people hold: `EmbeddingModel`, with its feeds and its cache."""

from perception_encoder.embedder.embedder import EmbeddingModel

__all__ = ["EmbeddingModel"]
