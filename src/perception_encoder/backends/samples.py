"""Images and texts that graphs are calibrated and measured with: the bundled gallery's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import numpy as np

from perception_encoder.preprocess import ImageProcessor
from perception_encoder.registry import ModelConfig
from perception_encoder.types import Pixels, TokenIds

_DATA: Final = files("perception_encoder").joinpath("data")
_EVERY: Final = 6  # 56 of the 333 images of the gallery


@dataclass(frozen=True, slots=True)
class CalibrationSamples:
    """What an export is measured with; images like those that the model will see.

    Attributes:
        pixels: (B, S, S, 3) uint8, RGB.
        token_ids: (B, L) int64; not read if the model reads no text.
    """

    pixels: Pixels
    token_ids: TokenIds


def load_captions() -> list[str]:
    """Return 64 captions of 6 to 10 words, as people write them."""
    return _DATA.joinpath("captions.txt").read_text(encoding="utf-8").splitlines()


def load_drawings(count: int) -> list[bytes]:
    """Return `count` files of the bundled gallery, evenly spaced in order of their names."""
    found = _gallery()
    return [found[place * len(found) // count] for place in range(count)]


def iter_calibration_images(config: ModelConfig) -> Iterator[Pixels]:
    """Yield every sixth image of the gallery, (1, S, S, 3) uint8 each."""
    processor = ImageProcessor(config.image, config.vision.image_size)
    for data in _gallery()[::_EVERY]:
        yield processor(data)[None]


def random_token_rows(config: ModelConfig, count: int) -> TokenIds:
    """Return (count, L) random token ids with an end token each; (0, 2) for models without text."""
    if config.text is None:
        return np.empty((0, 2), np.int64)
    length, end = config.text.context_length, config.text.vocab_size - 1
    rows = np.random.default_rng(0).integers(0, end - 1, (count, length))
    rows[:, -1] = end
    return rows


def _gallery() -> list[bytes]:
    folder = _DATA.joinpath("gallery").iterdir()
    images = sorted((item for item in folder if item.name.endswith(".webp")), key=lambda i: i.name)
    return [item.read_bytes() for item in images]
