"""What goes between blocks: pictures and texts into vectors, and vectors as embeddings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.integrations.workflows.engine_names import (
    TENSOR_DEVICE,
    TENSOR_MODE,
    Batch,
    WorkflowImageData,
)
from perception_encoder.integrations.workflows.models import Models
from perception_encoder.types import Embeddings


def listed(data: Any) -> list[Any]:
    """Return a batch's items, or the one item that is no batch."""
    return list(data) if isinstance(data, Batch) else [data]


def as_given(results: list[dict[str, Any]], data: Any) -> Any:
    """Return a block's results in the form that the engine wants for this input."""
    return results if isinstance(data, Batch) else results[0]


def spread(value: Any, count: int) -> list[Any]:
    """Return a value for each of so many pictures: those of a batch, or one for all.

    Raises:
        ValueError: a batch of another length.
    """
    if not isinstance(value, Batch):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} values were given for {count} pictures")
    return list(value)


def picture_of(image: Any) -> Any:
    """Return the form of a picture that exists already, so that nothing is converted.

    Returns:
        A (C, H, W) tensor, RGB; or an (H, W, 3) or (H, W) array, BGR.
    """
    if TENSOR_MODE and image.is_tensor_materialised():
        return image.tensor_image
    return image.numpy_image


def picture_vectors(model: EmbeddingModel, images: Sequence[Any]) -> Embeddings:
    """Embed pictures of a workflow together.

    Returns:
        (N, E) float32 of unit length.

    Raises:
        ImageError: a picture cannot be used; names its position.
    """
    pictures = [picture_of(image) for image in images]
    return model.embed_images(pictures, input_color_format="bgr", show_progress=False)


def vectors_of(models: Models, model: EmbeddingModel, items: Sequence[Any]) -> Embeddings:
    """Embed pictures and texts, in their order, each kind together.

    Returns:
        (N, E) float32 of unit length.

    Raises:
        TypeError: an item is neither.
        ImageError: a picture cannot be used.
    """
    images = [n for n, item in enumerate(items) if isinstance(item, WorkflowImageData)]
    texts = [n for n, item in enumerate(items) if isinstance(item, str)]
    if len(images) + len(texts) != len(items):
        wrong = next(item for item in items if not isinstance(item, WorkflowImageData | str))
        raise TypeError(f"expected images or strings, got {type(wrong).__name__}")
    vectors = np.empty((len(items), model.identity.embed_dim), np.float32)
    if images:
        vectors[images] = picture_vectors(model, [items[n] for n in images])
    if texts:
        vectors[texts] = models.text_vectors(model, [items[n] for n in texts])
    return vectors


def as_embeddings(vectors: NDArray[np.float32]) -> list[Any]:
    """Return rows as the kind `embedding`: lists of numbers, or tensors in tensor mode."""
    if not TENSOR_MODE:
        return list(vectors.tolist())
    import torch

    return list(torch.from_numpy(vectors).to(TENSOR_DEVICE))
