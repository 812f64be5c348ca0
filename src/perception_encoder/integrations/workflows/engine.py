"""The classes of the execution engine that blocks are built from.

They come from `roboflow-workflows`, or from `inference` up to 1.5, which contained the engine. In
tensor mode, a setting of the process, embeddings and classifications are tensors.
"""

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.integrations.workflows.models import Indexes, Models
from perception_encoder.types import Embeddings

_HAS_OWN_PACKAGE: Final = find_spec("roboflow_workflows") is not None
_ROOT: Final = "roboflow_workflows" if _HAS_OWN_PACKAGE else "inference.core.workflows"

_base = importlib.import_module(f"{_ROOT}.execution_engine.entities.base")
_types = importlib.import_module(f"{_ROOT}.execution_engine.entities.types")
_block = importlib.import_module(f"{_ROOT}.prototypes.block")
_settings = importlib.import_module(
    "roboflow_workflows.environment" if _HAS_OWN_PACKAGE else "inference.core.env"
)

Batch = _base.Batch
OutputDefinition = _base.OutputDefinition
WorkflowImageData = _base.WorkflowImageData
WorkflowBlock = _block.WorkflowBlock
WorkflowBlockManifest = _block.WorkflowBlockManifest
Selector = _types.Selector

IMAGE_KIND = _types.IMAGE_KIND
STRING_KIND = _types.STRING_KIND
BOOLEAN_KIND = _types.BOOLEAN_KIND
FLOAT_KIND = _types.FLOAT_KIND
FLOAT_ZERO_TO_ONE_KIND = _types.FLOAT_ZERO_TO_ONE_KIND
INTEGER_KIND = _types.INTEGER_KIND
LIST_OF_VALUES_KIND = _types.LIST_OF_VALUES_KIND

# `inference` before 1.5 knows no tensor mode.
TENSOR_MODE: Final[bool] = getattr(_settings, "ENABLE_TENSOR_DATA_REPRESENTATION", False)
TENSOR_DEVICE: Final = getattr(_settings, "WORKFLOWS_IMAGE_TENSOR_DEVICE", None)
ALLOWS_LOCAL_STORAGE: Final[bool] = _settings.ALLOW_WORKFLOW_BLOCKS_ACCESSING_LOCAL_STORAGE
WRITE_FOLDER: Final[str | None] = _settings.WORKFLOW_BLOCKS_WRITE_DIRECTORY

if TENSOR_MODE:
    _tensors = importlib.import_module(f"{_ROOT}.execution_engine.entities.tensor_native_types")
    EMBEDDING_KIND = _tensors.TENSOR_NATIVE_EMBEDDING_KIND
    CLASSIFICATION_KIND = _tensors.TENSOR_NATIVE_CLASSIFICATION_PREDICTION_KIND
else:
    EMBEDDING_KIND = _types.EMBEDDING_KIND
    CLASSIFICATION_KIND = _types.CLASSIFICATION_PREDICTION_KIND

COMPATIBILITY: Final = ">=1.5.0,<2.0.0"
"""Versions of the engine that pass batches or single values, as blocks declare."""


class Manifest(WorkflowBlockManifest):
    """The fields of one of our blocks in a workflow."""

    @classmethod
    def get_execution_engine_compatibility(cls) -> str:
        """Return the versions of the engine that can run the block."""
        return COMPATIBILITY


class ModelBlock(WorkflowBlock):
    """A block over the models and indexes of the process.

    Attributes:
        manifest: its fields.
    """

    manifest: ClassVar[type[Manifest]]

    def __init__(self, models: Models, indexes: Indexes) -> None:
        self._models = models
        self._indexes = indexes

    @classmethod
    def get_init_parameters(cls) -> list[str]:
        """Return the names of the arguments of `__init__`."""
        return ["models", "indexes"]

    @classmethod
    def get_manifest(cls) -> type[Manifest]:
        """Return the fields."""
        return cls.manifest


def list_items(data: Any) -> list[Any]:
    """Return the items of a batch, or a single item as a list."""
    return list(data) if isinstance(data, Batch) else [data]


def match_input(results: list[dict[str, Any]], data: Any) -> Any:
    """Return the results of a batch, or the result of a single input."""
    return results if isinstance(data, Batch) else results[0]


def repeat_for_images(value: Any, count: int) -> list[Any]:
    """Return a value for each of `count` images: those of a batch, or one for all.

    Raises:
        ValueError: a batch of another length.
    """
    if not isinstance(value, Batch):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} values were given for {count} images")
    return list(value)


def image_of(image: Any) -> Any:
    """Return an image in the form that it has already, tensor or array.

    Returns:
        A (C, H, W) tensor, RGB; or an (H, W, 3) or (H, W) array, BGR.
    """
    if TENSOR_MODE and image.is_tensor_materialised():
        return image.tensor_image
    return image.numpy_image


def embed_workflow_images(model: EmbeddingModel, images: Sequence[Any]) -> Embeddings:
    """Embed images of a workflow together.

    Returns:
        (N, E) float32 of unit length.

    Raises:
        ImageError: an image cannot be used; names its position.
    """
    arrays = [image_of(image) for image in images]
    return model.embed_images(arrays, input_color_format="bgr", show_progress=False)


def embed_items(models: Models, model: EmbeddingModel, items: Sequence[Any]) -> Embeddings:
    """Embed images and texts, in their order, each kind together.

    Returns:
        (N, E) float32 of unit length.

    Raises:
        TypeError: an item is neither.
        ImageError: an image cannot be used.
    """
    images = [n for n, item in enumerate(items) if isinstance(item, WorkflowImageData)]
    texts = [n for n, item in enumerate(items) if isinstance(item, str)]
    if len(images) + len(texts) != len(items):
        wrong = next(item for item in items if not isinstance(item, WorkflowImageData | str))
        raise TypeError(f"expected images or strings, got {type(wrong).__name__}")
    vectors = np.empty((len(items), model.identity.embed_dim), np.float32)
    if images:
        vectors[images] = embed_workflow_images(model, [items[n] for n in images])
    if texts:
        vectors[texts] = models.embed_texts(model, [items[n] for n in texts])
    return vectors


def convert_embeddings(vectors: NDArray[np.float32]) -> list[Any]:
    """Return rows as the kind `embedding`: lists of numbers, or tensors in tensor mode."""
    if not TENSOR_MODE:
        return list(vectors.tolist())
    import torch

    return list(torch.from_numpy(vectors).to(TENSOR_DEVICE))
