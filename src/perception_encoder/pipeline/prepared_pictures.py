"""Pictures of a folder as a model's pixels: what an engine's graphs are fitted to and tried on."""

import logging
import os
from typing import Final

import numpy as np

from perception_encoder.errors import ImageError, SourceError
from perception_encoder.pipeline.sources import SourceOptions, open_sources
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.types import Pixels

logger = logging.getLogger(__name__)

_FEWEST: Final = 16  # ranges of fewer say little of the next picture


def prepared_pictures(
    folder: str | os.PathLike[str], processor: ImageProcessor, count: int
) -> Pixels:
    """Read pictures from all over a folder, in an order that does not follow their names.

    Args:
        folder: or anything else that is a source of pictures.
        processor: of the model.
        count: how many to read at most.

    Returns:
        (N, S, S, 3) uint8, N <= count. What cannot be read is left out, with a warning.

    Raises:
        SourceError: no such folder, or too few of its pictures can be read.
    """
    sources = open_sources([os.fspath(folder)], SourceOptions())
    items = [item for source in sources for item in source.items()]
    found: list[Pixels] = []
    for place in np.random.default_rng(0).permutation(len(items)):
        if len(found) == count:
            break
        try:
            found.append(processor(items[place].read()))
        except (ImageError, OSError) as err:
            logger.warning("left out: %s: %s", items[place].uri, err)
    if len(found) < _FEWEST:
        raise SourceError(
            f"{folder}: {len(found)} pictures could be read; give a folder with at least {_FEWEST} "
            f"like those that the model will see, better {count}"
        )
    return np.stack(found)
