"""Figures of patch features: images beside their patches' colors, and lines between matches."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception_encoder.analysis.drawing import TextLayout
from perception_encoder.analysis.patches import PatchMatches

PANEL_SIDE: Final = 448
"""Pixels of the longer side of an image in these figures."""

_GAP: Final = 12
_FONT_SIZE: Final = 15
_LINE_HEIGHT: Final = 24
_PAPER: Final = "#ffffff"
_INK: Final = "#1b1f24"
_OVERSAMPLING: Final = 2  # Pillow draws lines without antialiasing
_SATURATION: Final = 0.75


class ColoredImage(NamedTuple):
    """An image, the colors of its patches, and its name.

    Attributes:
        image: RGB, upright, of at most `PANEL_SIDE` pixels.
        colors: (h, w, 3) uint8, RGB.
        label: written below.
    """

    image: Image.Image
    colors: NDArray[np.uint8]
    label: str


def draw_colored_images(images: Sequence[ColoredImage]) -> Image.Image:
    """Draw each image with its patches' colors beside it; each patch is a rectangle."""
    pairs = [_draw_pair(one) for one in images]
    columns = max(1, round(np.sqrt(len(pairs) / 2)))
    lines = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    widths = [max(pair.width for pair in pairs[column::columns]) for column in range(columns)]
    heights = [max(pair.height for pair in line) for line in lines]
    sheet = Image.new(
        "RGB", (sum(widths) + _GAP * (columns + 1), sum(heights) + _GAP * (len(lines) + 1)), _PAPER
    )
    top = _GAP
    for line, height in zip(lines, heights, strict=True):
        left = _GAP
        for pair, width in zip(line, widths, strict=False):
            sheet.paste(pair, (left, top))
            left += width + _GAP
        top += height + _GAP
    return sheet


def _draw_pair(one: ColoredImage) -> Image.Image:
    rows, columns = one.colors.shape[:2]
    # Patches of whole pixels, as near to the image's size as they can be.
    width = columns * max(1, round(one.image.width / columns))
    height = rows * max(1, round(one.image.height / rows))
    colors = Image.fromarray(one.colors).resize((width, height), Image.Resampling.NEAREST)
    image = one.image.resize((width, height), Image.Resampling.LANCZOS)
    pair = Image.new("RGB", (2 * width + _GAP // 2, height + _LINE_HEIGHT), _PAPER)
    pair.paste(image, (0, 0))
    pair.paste(colors, (width + _GAP // 2, 0))
    text = TextLayout(one.label, _FONT_SIZE)
    ImageDraw.Draw(pair).text(
        (0, height + 3), text.shortened(pair.width), fill=_INK, font=text.font
    )
    return pair


def draw_matches(
    images: tuple[Image.Image, Image.Image],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    matches: PatchMatches,
) -> Image.Image:
    """Draw two images side by side, and a line of its own color for each match.

    Args:
        images: RGB, upright, of any size.
        sizes: width and height in pixels of the images that the matches' points count in.
        matches: between them.
    """
    first, second = images
    gap = 2 * _GAP
    size = (first.width + second.width + gap, max(first.height, second.height))
    sheet = Image.new("RGB", size, _PAPER)
    offsets = [
        (0, (size[1] - first.height) // 2),
        (first.width + gap, (size[1] - second.height) // 2),
    ]
    for image, offset in zip(images, offsets, strict=True):
        sheet.paste(image, offset)
    large = sheet.resize((size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING))
    drawing = ImageDraw.Draw(large)
    ends = [
        (points * (np.array(image.size) / shown) + offset) * _OVERSAMPLING
        for points, image, shown, offset in zip(
            (matches.points_a, matches.points_b), images, sizes, offsets, strict=True
        )
    ]
    # The best matches are drawn last, over the others. Colors follow the height in the first image.
    heights = np.argsort(np.argsort(matches.points_a[:, 1], kind="stable"))
    for place in reversed(range(len(matches))):
        hue = heights[place] / max(1, len(matches))
        red, green, blue = colorsys.hsv_to_rgb(hue, _SATURATION, 0.9)
        color = (round(red * 255), round(green * 255), round(blue * 255))
        line = [tuple(end[place]) for end in ends]
        drawing.line(line, fill=color, width=2 * _OVERSAMPLING)
        for x, y in line:
            radius = 4 * _OVERSAMPLING
            box = (x - radius, y - radius, x + radius, y + radius)
            drawing.ellipse(box, fill=color, outline=_PAPER, width=_OVERSAMPLING)
    return large.resize(size, Image.Resampling.LANCZOS)
