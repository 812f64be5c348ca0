"""What the execution engine takes from `torchvision.io`, done by Pillow."""

import enum
import io

import numpy as np
import torch
from PIL import Image, ImageOps


class ImageReadMode(enum.Enum):
    RGB = "RGB"


def read_file(path: str) -> torch.Tensor:
    """The bytes of a file, (n,) uint8."""
    return torch.from_numpy(np.fromfile(path, np.uint8))


def decode_image(
    data: torch.Tensor, mode: ImageReadMode, apply_exif_orientation: bool = False
) -> torch.Tensor:
    """An image of bytes, (3, H, W) uint8."""
    image = Image.open(io.BytesIO(data.numpy().tobytes()))
    if apply_exif_orientation:
        image = ImageOps.exif_transpose(image)
    return torch.from_numpy(np.array(image.convert(mode.value))).permute(2, 0, 1)
