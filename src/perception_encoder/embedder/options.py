"""The types of what `EmbeddingModel`'s calls take: kinds of input, and options."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, TypedDict

from numpy.typing import NDArray

from perception_encoder.errors import ImageError
from perception_encoder.preprocess import ImageInput
from perception_encoder.preprocess.arrays import TensorLike
from perception_encoder.types import ColorFormat

ImageBatch: TypeAlias = Iterable[ImageInput] | NDArray[Any] | TensorLike
"""Images of any kinds and sizes, one (N, H, W, C) array, or one (N, C, H, W) tensor."""

Output: TypeAlias = Literal["numpy", "torch"]

OnError: TypeAlias = Literal["raise", "skip"]

Failures: TypeAlias = dict[int, ImageError]
"""Why images were skipped, by their position in the input."""


class VectorOptions(TypedDict, total=False):
    """What may be done to a vector before it is handed out."""

    normalize: bool
    truncate_dim: int | None


class OneImageOptions(VectorOptions, total=False):
    """Options of `embed_image`."""

    input_color_format: ColorFormat


class ImageOptions(OneImageOptions, total=False):
    """Options of `embed_images`."""

    batch_size: int
    show_progress: bool | None


class TextOptions(VectorOptions, total=False):
    """Options of `embed_text`."""

    batch_size: int
    show_progress: bool | None


def failures_for(errors: OnError) -> Failures | None:
    """Return what collects the failures; None where the first one is raised.

    Raises:
        ValueError: there is no such choice.
    """
    if errors not in ("raise", "skip"):
        raise ValueError(f"errors must be 'raise' or 'skip', got {errors!r}")
    return {} if errors == "skip" else None
