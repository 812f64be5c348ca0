"""A large JPEG file such as cameras write, to measure decoding with."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from perception_encoder.backends.samples import load_drawings

_CAMERA_SIZE: Final = (4000, 3000)
_CAMERA_TILE: Final = 500
_CAMERA_NOISE: Final = 6  # levels: what a sensor adds, and what makes such files 3 to 5 MB


def write_camera_image(path: Path) -> None:
    """Write a JPEG file of 12 megapixels: many drawings and a sensor's noise, quality 90."""
    width, height = _CAMERA_SIZE
    places = [(x, y) for y in range(0, height, _CAMERA_TILE) for x in range(0, width, _CAMERA_TILE)]
    image = Image.new("RGB", _CAMERA_SIZE)
    for place, data in zip(places, load_drawings(len(places)), strict=True):
        tile = Image.open(BytesIO(data)).convert("RGB").resize((_CAMERA_TILE, _CAMERA_TILE))
        image.paste(tile, place)
    noise = np.random.default_rng(0).normal(0, _CAMERA_NOISE, (height, width, 1))
    levels = (np.asarray(image) + noise.astype(np.float32)).clip(0, 255).astype(np.uint8)
    Image.fromarray(levels).save(path, "JPEG", quality=90)
