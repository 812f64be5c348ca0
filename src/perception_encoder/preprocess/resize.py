"""Resizing a PIL image to a model's square, in the image's own mode. Knows nothing of colours.

Pillow's bilinear and bicubic filters widen when shrinking (antialias). In modes "1" and "P" Pillow
takes the nearest pixel, and "LA" and "RGBA" are resized with premultiplied alpha.
"""

from typing import Final

from PIL import Image

from perception_encoder.registry import ImageConfig

_FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Beyond this ratio of the sides, only the kept part is resized: a 60000 × 1 picture would else
# become 13 million columns on its way to 224. The pixels are the same.
_MAX_WHOLE_RATIO: Final = 16


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
    if long > _MAX_WHOLE_RATIO * short:
        scale = long / new_long
        kept = (start * scale, min((start + size) * scale, long))
        part = (kept[0], 0, kept[1], short) if is_wide else (0, kept[0], short, kept[1])
        return image.resize((size, size), resample, box=part)
    resized = image.resize((new_long, size) if is_wide else (size, new_long), resample)
    left, top = (start, 0) if is_wide else (0, start)
    return resized.crop((left, top, left + size, top + size))
