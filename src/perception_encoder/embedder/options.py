"""Arguments of `EmbeddingModel`'s methods: their types, and what they do to the results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import ImageError
from perception_encoder.preprocess import ImageInput
from perception_encoder.preprocess.arrays import TensorLike
from perception_encoder.preprocess.crops import CropInput
from perception_encoder.types import ColorFormat, Embeddings
from perception_encoder.vectors import normalize_rows

if TYPE_CHECKING:
    import torch

ImageBatch: TypeAlias = Iterable[ImageInput] | NDArray[Any] | TensorLike
"""Images of any kinds and sizes, one (N, H, W, C) array, or one (N, C, H, W) tensor."""

Output: TypeAlias = Literal["numpy", "torch"]

OnError: TypeAlias = Literal["raise", "skip"]

Failures: TypeAlias = dict[int, ImageError]
"""Why images were skipped, by their position in the input."""


class VectorOptions(TypedDict, total=False):
    """Options that shape the returned embeddings."""

    normalize: bool
    truncate_dim: int | None


class OneImageOptions(VectorOptions, total=False):
    """Options of `embed_image`."""

    input_color_format: ColorFormat
    crop: CropInput | None


class ImageOptions(VectorOptions, total=False):
    """Options of `embed_images`."""

    input_color_format: ColorFormat
    batch_size: int
    show_progress: bool | None


class FeatureOptions(TypedDict, total=False):
    """Options of `features` that change no shape."""

    layer: int
    batch_size: int
    input_color_format: ColorFormat
    show_progress: bool | None


class TextOptions(VectorOptions, total=False):
    """Options of `embed_text`."""

    batch_size: int
    show_progress: bool | None


def failures_for(errors: OnError) -> Failures | None:
    """Return a dict that collects failures; None where the first one is raised.

    Raises:
        ValueError: `errors` is neither "raise" nor "skip".
    """
    if errors not in ("raise", "skip"):
        raise ValueError(f"errors must be 'raise' or 'skip', got {errors!r}")
    return {} if errors == "skip" else None


def check_output(embed_dim: int, truncate_dim: int | None, output: Output) -> None:
    """Refuse options of `finish_output` that cannot work, before any embedding is computed.

    Raises:
        ValueError: `output` is unknown, or `truncate_dim` is not between 1 and E.
    """
    if output not in ("numpy", "torch"):
        raise ValueError(f"output must be 'numpy' or 'torch', got {output!r}")
    if truncate_dim is not None and not 1 <= truncate_dim <= embed_dim:
        raise ValueError(f"truncate_dim must be between 1 and {embed_dim}, got {truncate_dim}")


def finish_output(
    embeddings: Embeddings, *, normalize: bool, truncate_dim: int | None, output: Output
) -> Embeddings | torch.Tensor:
    """Truncate, normalize and convert embeddings.

    Args:
        embeddings: (B, E) as the model computed them.
        normalize: scale each row to unit length, after truncation.
        truncate_dim: keep the first dimensions of each row only.
        output: "numpy", or "torch" for a CPU tensor that shares the array's memory.
    """
    embeddings = embeddings[:, :truncate_dim]
    embeddings = np.ascontiguousarray(normalize_rows(embeddings) if normalize else embeddings)
    if output == "numpy":
        return embeddings
    from perception_encoder.backends.torch_backend import as_tensor

    return as_tensor(embeddings)
