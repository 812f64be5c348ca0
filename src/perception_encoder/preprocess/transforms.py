"""Color modes, orientation and size: any decoded PIL image becomes a model's upright RGB square."""

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from PIL import ExifTags, GifImagePlugin, Image, TiffImagePlugin

from perception_encoder.errors import ImageDecodeError
from perception_encoder.preprocess.arrays import to_levels
from perception_encoder.preprocess.color import ColorProfile, find_profile
from perception_encoder.preprocess.encoded import DAMAGE
from perception_encoder.registry import ImageConfig

_WHITE: Final = (255, 255, 255)
# Writers of these leave the channel at zero where they mean nothing by it. In PNG, WebP, GIF and
# AVIF a file without alpha has no such channel.
_OFTEN_UNSET: Final = frozenset(("BMP", "TIFF", "JPEG2000"))
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES: Final = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return what brings the image upright by its EXIF (or XMP) orientation; None where it is.

    Unreadable metadata counts as upright. TIFF and HEIC arrive turned already, by their decoders.
    """
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:
        return None


def upright_size(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    """Return what width and height become by a turn."""
    return size[::-1] if turn in _SWAPS_SIDES else size


def turn_upright(image: Image.Image) -> Image.Image:
    """Apply the orientation, 1 to 8; returns the image itself where it is upright."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, *, item: str, max_side: int | None = None) -> Image.Image:
    """Convert any mode to what a viewer shows: sRGB, with transparency over white.

    See `to_opaque` for the rules and errors.

    Args:
        image: as it was decoded.
        item: names the image in errors.
        max_side: shrink the image to fit a square of this side; None leaves its size.
    """
    profile = find_profile(image)
    opaque = to_opaque(image, item=item, profile=profile)
    if max_side is not None and max(opaque.size) > max_side:
        opaque = opaque.copy() if opaque is image else opaque
        opaque.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return convert_colors(opaque, profile, item=item)


def to_opaque(image: Image.Image, *, item: str, profile: ColorProfile | None = None) -> Image.Image:
    """Convert any mode to RGB, or to "L" where it holds gray only: a third of the bytes.

    16-bit gray ("I;16…", and "I", which Pillow also uses for it) spans 0..65535 and is clipped to
    that; float ("F") spans 0..1, like float arrays. CMYK without a color profile, YCbCr, HSV and
    LAB are converted by Pillow. An alpha channel of zeros only is none in BMP, TIFF and JPEG 2000.
    What the first frame of a GIF leaves free is white.

    Args:
        image: as it was decoded.
        item: names the image in errors.
        profile: of the image, for `convert_colors`; CMYK stays as it is where there is one.

    Raises:
        ImageDecodeError: Pillow cannot convert the mode.
        ImageValueError: a float image outside 0..1.
    """
    if profile is not None and image.mode == profile.mode == "CMYK":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _deep_gray(image, item)
    if image.mode == "F":
        return Image.fromarray(to_levels(np.asarray(image), item=item))
    if (frame := _part_of_screen(image)) is not None:
        canvas = Image.new("RGB", image.size, _WHITE)
        canvas.paste(to_rgb(image.crop(frame), item=item), frame)
        return canvas
    if image.has_transparency_data and not _is_alpha_unset(image):
        return _over_white(image, item)
    return image if image.mode == "L" else convert_to_rgb(image, item=item)


def _part_of_screen(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Return where the first frame of a GIF is, if it is smaller than the image.

    Pillow fills the rest with the palette's first color; viewers show nothing there.
    """
    if not isinstance(image, GifImagePlugin.GifImageFile) or image.tell() > 0:
        return None
    frame = image.dispose_extent
    return None if frame is None or frame == (0, 0, *image.size) else frame


def _is_alpha_unset(image: Image.Image) -> bool:
    if image.format not in _OFTEN_UNSET or image.getbands()[-1] not in ("A", "a"):
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile) and 1 in image.tag_v2.get(338, ()):
        return False  # with premultiplied alpha, Pillow has made all colors black
    return image.getchannel(len(image.getbands()) - 1).getextrema() == (0, 0)


def convert_colors(image: Image.Image, profile: ColorProfile | None, *, item: str) -> Image.Image:
    """Convert an image of `to_opaque` to sRGB, by its color profile if it has one.

    Raises:
        ImageDecodeError: Pillow cannot convert the mode.
    """
    return convert_to_rgb(image, item=item) if profile is None else profile.convert(image)


def convert_to_rgb(image: Image.Image, *, item: str) -> Image.Image:
    """Do Pillow's own `convert("RGB")`, which drops transparency and clips deep pixels.

    Raises:
        ImageDecodeError: Pillow cannot convert the mode.
    """
    if image.mode == "RGB":
        return image
    try:
        return image.convert("RGB")
    except DAMAGE as err:
        raise ImageDecodeError(
            f"{item}: mode {image.mode} cannot become RGB ({err}); save the image as PNG or JPEG",
            item=item,
        ) from err


def _deep_gray(image: Image.Image, item: str) -> Image.Image:
    values = np.clip(np.asarray(image), 0, 65_535)
    levels = to_levels(values.astype(np.uint16), item=item)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels[values == transparent] = 255
    return Image.fromarray(levels)


def _over_white(image: Image.Image, item: str) -> Image.Image:
    if image.mode == "RGB":
        image = _with_8_bit_key(image)
    elif image.mode == "P":
        image = image.copy()  # converting writes the transparency into the palette
    elif image.mode == "La":
        image = image.convert("LA")  # Pillow has no direct way from premultiplied gray
    try:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
    except DAMAGE as err:
        raise ImageDecodeError(
            f"{item}: mode {image.mode} cannot become RGBA ({err}); save the image as PNG",
            item=item,
        ) from err
    if layer.getchannel("A").getextrema() == (255, 255):  # as of most screenshots
        return layer.convert("RGB")
    canvas = Image.new("RGB", layer.size, _WHITE)
    canvas.paste(layer, mask=layer)
    return canvas


def _with_8_bit_key(image: Image.Image) -> Image.Image:
    """Narrow the transparent color of a 16-bit PNG as Pillow narrowed its pixels."""
    key = image.info.get("transparency")
    if not isinstance(key, tuple) or max(key) <= 255:
        return image
    narrowed = image.copy()
    narrowed.info["transparency"] = tuple(value >> 8 for value in key)
    return narrowed


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
    image_size: int | tuple[int, int],
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
        image_size: S; or width and height that the whole upright image is resized to, whatever the
            rule.
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
    if isinstance(image_size, tuple):
        square = _stretch(image, upright_size(image_size, turn), size, config, reducing_gap)
    elif config.resize == "squash":
        square = scale((image_size, image_size), box=(0, 0, *size))
    else:
        square = _center_crop(scale, size, image_size, turn)
    return square if turn is None else square.transpose(turn)


def _stretch(
    image: Image.Image,
    target: tuple[int, int],
    size: tuple[float, float],
    config: ImageConfig,
    reducing_gap: float | None,
) -> Image.Image:
    """Resize the counted part of an image to width and height `target`."""
    resample = _FILTERS[config.interpolation]
    if target[0] * image.height > _MAX_WHOLE_PIXELS and target[0] > image.width:
        # Pillow resizes rows first: a tall image on a wide grid would take gigabytes on its way.
        image = image.resize((image.width, target[1]), resample, (0, 0, image.width, size[1]))
        size = (size[0], target[1])
    return image.resize(target, resample, (0, 0, *size), reducing_gap)


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
