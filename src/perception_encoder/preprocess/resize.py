"""Resizing a PIL image to a model's square, in the image's own mode. Knows nothing of colors.

Pillow's bilinear and bicubic filters widen when shrinking (antialias). In modes "1" and "P" Pillow
takes the nearest pixel, and "LA" and "RGBA" are resized with premultiplied alpha. Versions of
Pillow differ by a level here and there (from 13 on the cheaper axis goes first, before it was
always the rows), so "bit for bit" means: with the same Pillow.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from PIL import Image

from perception_encoder.registry import ImageConfig

_FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# A 60000 × 1 image would become 13 million columns on its way to a crop of 224. Where the whole
# would be larger than this (319:1 at 224), only the kept part is resized. That part's edges are
# float32 to Pillow, so there the pixels may differ from the original's in their last bits.
_MAX_WHOLE_PIXELS: Final = 2**24


# What brings an image upright, by the axes of the stored image that it reverses.
_REVERSES_COLUMNS: Final = frozenset(
    (
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE,
    )
)
_REVERSES_ROWS: Final = frozenset(
    (
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
    )
)


def resize(
    image: Image.Image,
    *,
    image_size: int,
    config: ImageConfig,
    size: tuple[float, float] | None = None,
    turn: Image.Transpose | None = None,
    reducing_gap: float | None = None,
) -> Image.Image:
    """Resize to (image_size, image_size) by the model's rule; may return the image itself.

    "squash" ignores the aspect ratio; "center_crop" brings the shorter side to image_size and
    keeps the middle of the longer one.

    Args:
        image: any mode.
        image_size: S.
        config: the model's rule and filter.
        size: width and height that count, from the upper left corner, where the last column or row
            is only in part the image's; None takes all.
        turn: is done last, when there is little left to turn; the result is that of turning first,
            to a level of rounding where rows become columns.
        reducing_gap: first shrink by a whole number that leaves at least so many times the size,
            which is quicker; None resizes in one step.
    """
    scale = partial(
        image.resize, resample=_FILTERS[config.interpolation], reducing_gap=reducing_gap
    )
    size = size or image.size
    if config.resize == "squash":
        square = scale((image_size, image_size), box=(0, 0, *size))
    else:
        square = _center_crop(scale, size, image_size, turn)
    return square if turn is None else square.transpose(turn)


def _center_crop(
    scale: Callable[..., Image.Image],
    size: tuple[float, float],
    image_size: int,
    turn: Image.Transpose | None,
) -> Image.Image:
    # Same arithmetic as torchvision 0.29 transforms/functional.py: _compute_resized_output_size
    # truncates the longer side, center_crop rounds the offset half to even.
    short, long = sorted(size)
    new_long = int(image_size * long / short)
    start = round((new_long - image_size) / 2.0)
    is_wide = size[0] > size[1]
    if turn in (_REVERSES_COLUMNS if is_wide else _REVERSES_ROWS):
        start = new_long - image_size - start
    if new_long * image_size > _MAX_WHOLE_PIXELS:
        ratio = long / new_long
        kept = (start * ratio, min((start + image_size) * ratio, long))
        part = (kept[0], 0, kept[1], short) if is_wide else (0, kept[0], short, kept[1])
        return scale((image_size, image_size), box=part)
    new_size = (new_long, image_size) if is_wide else (image_size, new_long)
    left, top = (start, 0) if is_wide else (0, start)
    whole = scale(new_size, box=(0, 0, *size))
    return whole.crop((left, top, left + image_size, top + image_size))
