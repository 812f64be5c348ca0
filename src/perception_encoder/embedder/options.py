"""The types of what `EmbeddingModel`'s calls take: kinds of input, and options."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, TypedDict

from numpy.typing import NDArray

from perception_encoder.preprocess import ImageInput
from perception_encoder.preprocess.arrays import TensorLike
from perception_encoder.types import ColorFormat

ImageBatch: TypeAlias = Iterable[ImageInput] | NDArray[Any] | TensorLike
"""Pictures of any kinds and sizes, one (N, H, W, C) array, or one (N, C, H, W) tensor."""

Output: TypeAlias = Literal["numpy", "torch"]


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
