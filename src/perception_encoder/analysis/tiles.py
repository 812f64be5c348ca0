"""Many small pictures, read and decoded on several threads, in order. Knows nothing of tables."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final

from PIL import Image

from perception_encoder.analysis.contact_sheet import SheetImage, thumbnail
from perception_encoder.errors import ImageError
from perception_encoder.preprocess.threads import num_usable_cores

logger = logging.getLogger(__name__)

_AHEAD: Final = 4  # for each thread


def read_tiles(images: Iterable[SheetImage], side: int) -> Iterator[Image.Image | None]:
    """Yield each picture, RGB, fitted into a square of `side` pixels; None of an unreadable one."""
    num_threads = num_usable_cores()
    waiting: deque[Future[Image.Image | None]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        begun = (pool.submit(_tile, image, side) for image in images)
        try:
            waiting.extend(islice(begun, num_threads * _AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(islice(begun, 1))
        finally:
            for one in waiting:
                one.cancel()


def _tile(image: SheetImage, side: int) -> Image.Image | None:
    try:
        return thumbnail(image, side)
    except (ImageError, OSError) as err:
        logger.info("%s", err)
        return None
