"""A map of a table as one picture: its pictures on a grid, alike ones near, names over groups.

Knows nothing of models or tables: it is given pictures and places.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception_encoder.analysis.contact_sheet import SheetImage, save_picture
from perception_encoder.analysis.lettering import Lettering
from perception_encoder.analysis.map_grid import Grid
from perception_encoder.analysis.preference import Numbers
from perception_encoder.analysis.tiles import read_tiles

_PAPER: Final = "#ffffff"
_INK: Final = "#1b1f24"
_GONE: Final = "#dfe3e8"
_LABEL: Final = (255, 255, 255, 225)
_MARGIN: Final = 16
_GAP_SHARE: Final = 16  # of a tile's side between tiles


@dataclass(frozen=True)
class Caption:
    """A name over the middle of a group.

    Attributes:
        text: the name.
        members: (M,) int64, which of the grid's places belong to the group.
    """

    text: str
    members: Numbers


def draw_map(
    images: Sequence[SheetImage],
    grid: Grid,
    captions: Sequence[Caption],
    path: str | os.PathLike[str],
    *,
    tile: int = 64,
) -> int:
    """Draw the pictures that have a cell, and save them as one picture.

    Args:
        images: for every place of the grid; only those that have a cell are read.
        grid: where they go.
        captions: the most important first; one that would cover another is left out.
        path: where to save; the ending decides the format.
        tile: side of a cell, pixels.

    Returns:
        How many pictures could not be read; their cells are grey.

    Raises:
        ImageWriteError: it cannot be saved there.
    """
    size = (grid.columns * tile + 2 * _MARGIN, grid.rows * tile + 2 * _MARGIN)
    canvas = Image.new("RGB", size, _PAPER)
    inner = tile - max(1, tile // _GAP_SHARE)
    num_gone = 0
    shown = [images[place] for place in grid.shown.tolist()]
    for (column, row), picture in zip(grid.cells.tolist(), read_tiles(shown, inner), strict=True):
        left, top = _MARGIN + column * tile, _MARGIN + row * tile
        if picture is None:
            num_gone += 1
            picture = Image.new("RGB", (inner, inner), _GONE)
        space = ((tile - picture.width) // 2, (tile - picture.height) // 2)
        canvas.paste(picture, (left + space[0], top + space[1]))
    middles = np.full((len(images), 2), np.nan)
    middles[grid.shown] = (grid.cells + 0.5) * tile + _MARGIN
    _write_captions(canvas, captions, middles, letters=max(12, tile // 3))
    save_picture(canvas, path)
    return num_gone


def _write_captions(
    canvas: Image.Image,
    captions: Sequence[Caption],
    middles: NDArray[np.float64],
    *,
    letters: int,
) -> None:
    draw = ImageDraw.Draw(canvas, "RGBA")
    taken: list[tuple[float, float, float, float]] = []
    for caption in captions:
        own = middles[caption.members]
        own = own[~np.isnan(own[:, 0])]
        if not len(own):
            continue
        lettering = Lettering(caption.text, letters)
        text = lettering.shortened(canvas.width / 3)
        half = lettering.width(text) / 2 + letters / 2
        # On the member nearest to the middle, which may itself lie among others.
        x, y = own[((own - np.median(own, axis=0)) ** 2).sum(axis=1).argmin()]
        x = min(max(x, half), canvas.width - half)
        box = (x - half, y - letters * 0.8, x + half, y + letters * 0.8)
        if any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        draw.rounded_rectangle(box, letters / 2, fill=_LABEL)
        draw.text((x, y), text, fill=_INK, font=lettering.font, anchor="mm")


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
