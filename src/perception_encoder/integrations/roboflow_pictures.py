"""Pictures as `inference_models` takes them: what counts as a batch, and tensors in BGR order."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_encoder.preprocess import ImageInput, ImageProcessor, split_batch
from perception_encoder.registry import ImageConfig
from perception_encoder.types import ColorFormat

if TYPE_CHECKING:
    import torch


def listed(images: Any, color_format: ColorFormat | None) -> list[ImageInput]:
    """Make a list of single pictures, tensors among them in RGB order.

    Args:
        images: one picture, a list of them, an (N, C, H, W) tensor or an (N, H, W, C) array.
        color_format: what was said of all of them; arrays are left to the preprocessing.

    Raises:
        TypeError, ImageValueError: see `split_batch`.
    """
    if getattr(images, "ndim", 0) in (2, 3):
        images = [images]
    pictures = split_batch(images)
    return [_rgb(picture) for picture in pictures] if color_format == "bgr" else pictures


def create_preprocessor(
    image_size: int, config: ImageConfig | None = None
) -> "Callable[..., torch.Tensor]":
    """Return a function of (images, input_color_format=None) to what the original's model reads.

    Args:
        image_size: S, the side of the model's square in pixels.
        config: resize rule and normalisation; None is PE's.

    Returns:
        A function whose result is (N, 3, S, S) float32, RGB, normalised; for PE in [-1, 1].
    """
    config = config or ImageConfig()
    processor = ImageProcessor(config, image_size)

    def preprocess(images: Any, input_color_format: ColorFormat | None = None) -> "torch.Tensor":
        import torch

        order = input_color_format or "bgr"
        pictures = listed(images, input_color_format)
        squares = np.empty((len(pictures), image_size, image_size, 3), np.uint8)
        for row, picture in enumerate(pictures):
            squares[row] = processor(picture, input_color_format=order, item=f"image {row}")
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(part)[:, None, None] for part in (config.mean, config.std))
        return (pixels - mean) / std

    return preprocess


def _rgb(picture: Any) -> Any:
    """Turn a tensor from BGR to RGB; arrays, and pictures that know their order, stay."""
    import torch

    if not isinstance(picture, torch.Tensor) or picture.ndim != 3 or len(picture) not in (3, 4):
        return picture
    return picture[[2, 1, 0, *range(3, len(picture))]]
