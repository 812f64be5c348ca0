"""Resizing a PIL image to a model's square, in the image's own mode. Knows nothing of colours.

Pillow's bilinear and bicubic filters widen when shrinking (antialias). In modes "1" and "P" Pillow
takes the nearest pixel, and "LA" and "RGBA" are resized with premultiplied alpha. Versions of
Pillow differ by a level here and there (from 13 on the cheaper axis goes first, before it was
always the rows), so "bit for bit" means: with the same Pillow.
"""

from typing import Final

from PIL import Image

from perception_encoder.registry import ImageConfig

_FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# A 60000 × 1 picture would become 13 million columns on its way to a crop of 224. Where the whole
# would be larger than this (319:1 at 224), only the kept part is resized. That part's edges are
# float32 to Pillow, so there the pixels may differ from the original's in their last bits.
_MAX_WHOLE_PIXELS: Final = 2**24


def resize(image: Image.Image, *, image_size: int, config: ImageConfig) -> Image.Image:
    """Resize to (image_size, image_size) by the model's rule; may return the image itself.

    "squash" ignores the aspect ratio; "center_crop" brings the shorter side to image_size and
    keeps the middle of the longer one.
    """
    resample = _FILTERS[config.interpolation]
    if config.resize == "squash":
        return image.resize((image_size, image_size), resample)
    return _center_crop(image, image_size, resample)


def _center_crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    # Same arithmetic as torchvision 0.29 transforms/functional.py: _compute_resized_output_size
    # truncates the longer side, center_crop rounds the offset half to even.
    short, long = sorted(image.size)
    new_long = int(size * long / short)
    start = round((new_long - size) / 2.0)
    is_wide = image.width > image.height
    if new_long * size > _MAX_WHOLE_PIXELS:
        scale = long / new_long
        kept = (start * scale, min((start + size) * scale, long))
        part = (kept[0], 0, kept[1], short) if is_wide else (0, kept[0], short, kept[1])
        return image.resize((size, size), resample, box=part)
    resized = image.resize((new_long, size) if is_wide else (size, new_long), resample)
    left, top = (start, 0) if is_wide else (0, start)
    return resized.crop((left, top, left + size, top + size))
