"""Relevance maps drawn over their image: a panel for each text, with one scale and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception_encoder.analysis.drawing import SheetImage, TextLayout, make_thumbnail

if TYPE_CHECKING:
    from perception_encoder.embedder.relevance import Region, Relevance

MAX_TEXTS: Final = 16
"""Texts of one figure."""

_MAX_COLUMNS: Final = 4
_RAISES: Final = ((255, 214, 120), (244, 109, 38), (178, 12, 38))  # from weak to strong
_LOWERS: Final = ((168, 206, 236), (74, 140, 200), (20, 72, 150))
_OPACITY: Final = 0.9  # of the strongest patch
_FADED: Final = 0.4  # how far the image is drawn towards white, so that colors stand out
_PAPER: Final = "#ffffff"
_INK: Final = "#1b1f24"
_SOFT_INK: Final = "#69717c"
_GAP: Final = 16
_FONT: Final = 15
_LINE: Final = 20
_BAR: Final = (240, 12)  # width and height of the legend's color bar


def draw_relevance(
    image: SheetImage, relevance: Relevance, texts: Sequence[str], *, side: int = 360
) -> Image.Image:
    """Draw the map of each text over the image.

    Red raises the cosine, blue lowers it. All panels share one scale, so that the map of a text
    that is not in the image is pale.

    Args:
        image: the explained image.
        relevance: what `EmbeddingModel.explain` returned.
        texts: its texts, at most `MAX_TEXTS`.
        side: of a panel, pixels.

    Raises:
        ImageError: the image cannot be decoded.
        OSError: the file cannot be read.
        ValueError: no texts, too many, or another number than the maps.
    """
    if not 0 < len(texts) == len(relevance.maps) <= MAX_TEXTS:
        raise ValueError(
            f"{len(texts)} texts and {len(relevance.maps)} maps; at most {MAX_TEXTS}, as many each"
        )
    thumbnail = make_thumbnail(image, side)
    scale = find_scale(relevance.maps)
    columns = min(len(texts), _MAX_COLUMNS)
    panel_width = max(thumbnail.width, _BAR[0] // columns)
    captions = [TextLayout(text, _FONT).lines(panel_width, 2) for text in texts]
    caption_height = _LINE * (max(map(len, captions)) + 1)
    step_x, step_y = panel_width + _GAP, thumbnail.height + caption_height + _GAP
    rows = -(-len(texts) // columns)
    size = (max(columns * step_x, _BAR[0] + _GAP) + _GAP, rows * step_y + 3 * _LINE + 2 * _GAP)
    figure = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(figure)
    for number, (lines, score) in enumerate(zip(captions, relevance.scores, strict=True)):
        left, top = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        figure.paste(
            overlay(thumbnail, relevance.maps[number], relevance.region, scale), (left, top)
        )
        top += thumbnail.height + 4
        for line in lines:
            draw.text((left, top), line, fill=_INK, font=TextLayout(line, _FONT).font)
            top += _LINE
        _write(draw, (left, top), f"cosine {score:.3f}", _SOFT_INK)
    _draw_legend(figure, draw, (_GAP, _GAP + rows * step_y), scale)
    return figure


def find_scale(maps: NDArray[np.float32]) -> float:
    """Return the largest magnitude of any patch, which has the strongest color."""
    return float(np.abs(maps).max(initial=0.0)) or 1.0


def overlay(
    image: Image.Image, values: NDArray[np.float32], region: Region, scale: float
) -> Image.Image:
    """Color an image by one (h, w) map."""
    left, right = (round(edge * image.width) for edge in region[::2])
    top, bottom = (round(edge * image.height) for edge in region[1::2])
    size = (max(1, right - left), max(1, bottom - top))
    enlarged = Image.fromarray(values / np.float32(scale)).resize(size, Image.Resampling.BICUBIC)
    shares = np.zeros((image.height, image.width), np.float32)
    shares[top : top + size[1], left : left + size[0]] = np.asarray(enlarged)
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    base = gray + (255 - gray) * _FADED
    colors, opacity = colorize(shares)
    mixed = base + (colors - base) * opacity[..., None]
    return Image.fromarray(mixed.round().astype(np.uint8))


def colorize(shares: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (…, 3) colors, 0 to 255, and (…) opacities of values between -1 and 1."""
    strength = np.abs(shares).clip(0, 1)
    stops = np.linspace(0, 1, len(_RAISES))
    channels = [
        np.where(
            shares >= 0,
            np.interp(strength, stops, [color[channel] for color in _RAISES]),
            np.interp(strength, stops, [color[channel] for color in _LOWERS]),
        )
        for channel in range(3)
    ]
    opacity: NDArray[np.float32] = strength ** np.float32(0.7) * np.float32(_OPACITY)
    return np.stack(channels, axis=-1).astype(np.float32), opacity


def _draw_legend(
    figure: Image.Image, draw: ImageDraw.ImageDraw, place: tuple[int, int], scale: float
) -> None:
    left, top = place
    width, height = _BAR
    shares = np.tile(np.linspace(-1, 1, width, dtype=np.float32), (height, 1))
    colors, opacity = colorize(shares)
    mixed = 255 + (colors - 255) * opacity[..., None]
    figure.paste(Image.fromarray(mixed.round().astype(np.uint8)), (left, top))
    below = top + height + 4
    for x, label in ((0, f"-{scale:.2g}"), (width / 2, "0"), (width, f"+{scale:.2g}")):
        length = TextLayout(label, _FONT).width(label)
        start = min(max(left + x - length / 2, left), left + width - length)
        _write(draw, (start, below), label, _SOFT_INK)
    _write(draw, (left, below + _LINE), "what a patch adds to the cosine", _SOFT_INK)


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: str) -> None:
    layout = TextLayout(text, _FONT)
    draw.text(place, layout.text, fill=color, font=layout.font)
