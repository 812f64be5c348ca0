"""Embeds the prompts that indexes are calibrated with once for each model: it takes seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.search.null_distribution import embed_prompts
from perception_encoder.types import Embeddings, ModelIdentity

_embeddings: dict[ModelIdentity, Embeddings] = {}


@contextmanager
def keeping_prompts() -> Iterator[None]:
    """Let models of the same weights share their embeddings of the prompts."""
    with (
        patch("perception_encoder.search.null_distribution.embed_prompts", _embed_once),
        patch("perception_encoder.search.calibration.embed_prompts", _embed_once),
    ):
        yield


def _embed_once(model: EmbeddingModel) -> Embeddings:
    if model.identity not in _embeddings:
        _embeddings[model.identity] = embed_prompts(model)
    return _embeddings[model.identity]
