"""The bundled drawings, prepared: what int8 measures its ranges on unless given other pictures."""

from collections.abc import Iterator
from importlib.resources import as_file, files
from typing import Final

from perception_encoder.preprocess import ImageProcessor
from perception_encoder.registry import ModelConfig
from perception_encoder.types import Pixels

_EVERY: Final = 6  # 56 of the 333


def calibration_pictures(config: ModelConfig) -> Iterator[Pixels]:
    """Yield drawings from all over the gallery, (1, S, S, 3) uint8 each."""
    processor = ImageProcessor(config.image, config.vision.image_size)
    with as_file(files("perception_encoder").joinpath("data/gallery")) as folder:
        paths = sorted(folder.glob("*.webp"))
        for path in paths[::_EVERY]:
            yield processor(path)[None]
