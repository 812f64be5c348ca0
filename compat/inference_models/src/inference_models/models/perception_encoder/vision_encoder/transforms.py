"""Meta's transform of one PIL image, by this backend."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from perception_encoder.integrations.roboflow_model import create_preprocessor
from perception_encoder.registry import ImageConfig

if TYPE_CHECKING:
    import torch
    from PIL import Image


def get_image_transform(
    image_size: int, center_crop: bool = False
) -> "Callable[[Image.Image], torch.Tensor]":
    """Return a function of a PIL image to what the model reads.

    Args:
        image_size: S, the side of the model's square in pixels.
        center_crop: keep the image's shape and cut its middle out, instead of squashing it.

    Returns:
        A function whose result is (3, S, S) float32, RGB, in [-1, 1].
    """
    config = ImageConfig(resize="center_crop" if center_crop else "squash")
    preprocess = create_preprocessor(image_size, config)
    return lambda image: preprocess([image])[0]
