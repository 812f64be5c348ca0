"""Thumbnails of images, read by several threads, and saving what was drawn from them."""

from __future__ import annotations

import io
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from PIL import Image

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageError, ImageWriteError
from perception_encoder.preprocess.decode import ImageInput, decode_scaled
from perception_encoder.preprocess.images import num_usable_cores
from perception_encoder.preprocess.transforms import to_rgb, turn_upright

if TYPE_CHECKING:
    from perception_encoder.index import Hit, Row

logger = logging.getLogger(__name__)

_MAX_ENLARGEMENT: Final = 4  # of small images; beyond it they only blur
_JPEG_QUALITY: Final = 90
_AHEAD: Final = 4  # thumbnails read in advance by each thread

SheetImage: TypeAlias = ImageInput | Callable[[], bytes]
"""An image, or a function that reads its file when it is drawn and raises ImageError or OSError."""


def image_source_of(row: Row | Hit) -> SheetImage:
    """Return the path of an indexed file, or a function that reads an image stored elsewhere."""
    from perception_encoder.sources import read_image

    is_file = row.member is None and "://" not in row.uri
    return row.uri if is_file else partial(read_image, row.uri, row.member, row.offset)


def short_name_of(row: Row | Hit) -> str:
    """Return an image's file name without folder and suffix."""
    return Path(row.member or row.uri).stem


def make_thumbnail(image: SheetImage, side: int, *, item: str = "") -> Image.Image:
    """Fit an image into a square of `side` pixels; keeps its proportions, returns RGB.

    Raises:
        ImageError: the image cannot be decoded; `item` names it.
        OSError: the file cannot be read.
    """
    source = image() if callable(image) else image
    decoded = decode_scaled(source, item=item or None, min_side=side).image
    small = to_rgb(turn_upright(decoded), item=item)
    scale = min(side / max(small.size), _MAX_ENLARGEMENT)
    size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
    return small.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def read_thumbnails(
    images: Iterable[tuple[SheetImage, str]], side: int
) -> Iterator[Image.Image | ImageError | OSError]:
    """Yield the thumbnail of each (image, name), or the error of an image that cannot be read."""
    num_threads = num_usable_cores()
    waiting: deque[Future[Image.Image | ImageError | OSError]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        begun = (pool.submit(_try_thumbnail, image, side, name) for image, name in images)
        try:
            waiting.extend(islice(begun, num_threads * _AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(islice(begun, 1))
        finally:
            for one in waiting:
                one.cancel()


def read_tiles(images: Iterable[SheetImage], side: int) -> Iterator[Image.Image | None]:
    """Yield the thumbnail of each image; None for an image that cannot be read."""
    for found in read_thumbnails(((image, "") for image in images), side):
        if isinstance(found, Image.Image):
            yield found
        else:
            logger.info("%s", found)
            yield None


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Save an image in the format that the suffix of `path` names.

    Raises:
        ImageWriteError: the file cannot be written, or no image format has this suffix.
    """
    Image.init()
    name = os.fsdecode(path)
    encoded = io.BytesIO()  # on a full disk Pillow truncates a file and raises nothing
    try:
        kind = Image.registered_extensions()[os.path.splitext(name)[1].lower()]
        image.save(encoded, kind, quality=_JPEG_QUALITY)
    except (KeyError, ValueError, OSError) as err:
        raise ImageWriteError(
            f"{name}: the image cannot be saved: {err}; choose a name that ends in .png or .jpg",
            item=name,
        ) from err
    with atomic_write(path, ImageWriteError) as partial:
        partial.write_bytes(encoded.getbuffer())


def _try_thumbnail(image: SheetImage, side: int, name: str) -> Image.Image | ImageError | OSError:
    try:
        return make_thumbnail(image, side, item=name)
    except (ImageError, OSError) as err:
        return err
