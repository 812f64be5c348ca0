"""What models are measured with: captions, drawings, and one large JPEG file such as cameras write.

Knows no models.
"""

from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

_DATA: Final = files("perception_encoder").joinpath("data")
_CAMERA_SIZE: Final = (4000, 3000)
_CAMERA_TILE: Final = 500
_CAMERA_NOISE: Final = 6  # levels: what a sensor adds, and what makes such files 3 to 5 MB


def captions() -> list[str]:
    """Return 64 captions of 6 to 10 words, as people write them."""
    return _DATA.joinpath("captions.txt").read_text(encoding="utf-8").splitlines()


def drawings(count: int) -> list[bytes]:
    """Return that many files of the bundled gallery, spread over its names."""
    found = sorted(
        (item for item in _DATA.joinpath("gallery").iterdir() if item.name.endswith(".webp")),
        key=lambda item: item.name,
    )
    return [found[place * len(found) // count].read_bytes() for place in range(count)]


def write_camera_image(path: Path) -> None:
    """Write a JPEG file of 12 megapixels: many drawings and a sensor's noise, quality 90."""
    width, height = _CAMERA_SIZE
    places = [(x, y) for y in range(0, height, _CAMERA_TILE) for x in range(0, width, _CAMERA_TILE)]
    image = Image.new("RGB", _CAMERA_SIZE)
    for place, data in zip(places, drawings(len(places)), strict=True):
        tile = Image.open(BytesIO(data)).convert("RGB").resize((_CAMERA_TILE, _CAMERA_TILE))
        image.paste(tile, place)
    noise = np.random.default_rng(0).normal(0, _CAMERA_NOISE, (height, width, 1))
    levels = (np.asarray(image) + noise.astype(np.float32)).clip(0, 255).astype(np.uint8)
    Image.fromarray(levels).save(path, "JPEG", quality=90)
