"""A map of an index as one image: thumbnails on a grid, and the names of clusters over them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception_encoder.analysis.ranked_images import Numbers
from perception_encoder.analysis.text_layout import TextLayout
from perception_encoder.analysis.thumbnails import SheetImage, read_tiles, save_image

MAX_SIDE: Final = 48
_ROOM: Final = 1.7  # cells for each image; the empty ones show as gaps between clusters
_FINEST: Final = 5000
_PAPER: Final = "#ffffff"
_INK: Final = "#1b1f24"
_GONE: Final = "#dfe3e8"
_LABEL: Final = (255, 255, 255, 225)
_MARGIN: Final = 16
_GAP_SHARE: Final = 16  # of a tile's side between tiles


@dataclass(frozen=True)
class Grid:
    """The cells of images on a grid.

    Attributes:
        columns: number of columns.
        rows: number of rows.
        shown: (S,) int64, the numbers of the images that have a cell.
        cells: (S, 2) int64, the column and row of each; row 0 is at the top.
    """

    columns: int
    rows: int
    shown: Numbers
    cells: NDArray[np.int64]

    @property
    def cell(self) -> float:
        """Side of a cell, if the longer side of the grid spans -1 to 1."""
        return 2 / max(self.columns, self.rows, 1)

    @property
    def middles(self) -> NDArray[np.float32]:
        """(S, 2) float32: the centers of the cells, x to the right and y upwards, around 0."""
        from_middle = (self.cells + 0.5 - np.array([self.columns, self.rows]) / 2) * self.cell
        return np.asarray(from_middle * [1, -1], np.float32)


def build_grid(places: NDArray[np.float32], max_side: int = MAX_SIDE) -> Grid:
    """Give each position a cell near it; if there are too many, an evenly spread part of them.

    Args:
        places: (C, 2) float32, x to the right and y upwards.
        max_side: the most columns or rows.
    """
    if not len(places):
        return Grid(0, 0, np.empty(0, np.int64), np.empty((0, 2), np.int64))
    low, high = places.min(axis=0), places.max(axis=0)
    width, height = (float(side) for side in np.maximum(high - low, 1e-9))
    stretch = math.sqrt(min(max(width / height, 0.5), 2.0))
    side = math.sqrt(len(places) * _ROOM) if len(places) > 1 else 1
    columns = min(max_side, max(1, math.ceil(side * stretch)))
    rows = min(max_side, max(1, math.ceil(side / stretch)))
    within = (places - low) / np.array([width, height])  # from 0 to 1
    within[:, 1] = 1 - within[:, 1]
    most = max(1, int(columns * rows / _ROOM))
    shown = np.arange(len(places)) if len(places) <= most else _spread_sample(within, most)
    cells = _nearest_free(within[shown] * [columns - 1, rows - 1], columns, rows)
    return Grid(columns, rows, shown, cells)


def _spread_sample(within: NDArray[np.float64], most: int) -> Numbers:
    """Choose at most `most` positions: the nearest to the cells' centers of an auxiliary grid."""
    best: Numbers = np.zeros(1, np.int64)
    side = 1.0
    while True:
        scaled = within * math.ceil(side)
        cells = np.floor(scaled).astype(np.int64)
        distances = ((scaled - cells - 0.5) ** 2).sum(axis=1)
        order = np.lexsort((distances, cells[:, 0], cells[:, 1]))
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (np.diff(cells[order], axis=0) != 0).any(axis=1)
        if is_first.sum() > most:
            return best
        best = np.sort(order[is_first])
        side *= 1.15
        if side > _FINEST:  # many are at one position
            return best


def _nearest_free(wanted: NDArray[np.float64], columns: int, rows: int) -> NDArray[np.int64]:
    """Return a different cell for each position, with the least sum of squared distances."""
    from scipy.optimize import linear_sum_assignment

    middles = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    costs = ((wanted[:, None, :] - middles) ** 2).sum(axis=-1)
    return np.asarray(middles[linear_sum_assignment(costs)[1]], np.int64)


@dataclass(frozen=True)
class Caption:
    """A name over the middle of a cluster.

    Attributes:
        text: the name.
        members: (M,) int64, the numbers of its images.
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
    """Draw the images that have a cell, and save them as one image.

    Args:
        images: all images; only those with a cell are read.
        grid: their cells.
        captions: the most important first; captions that would cover others are left out.
        path: the file; its suffix decides the format.
        tile: side of a cell, pixels.

    Returns:
        The number of images that could not be read; their cells are gray.

    Raises:
        ImageWriteError: the file cannot be written.
    """
    size = (grid.columns * tile + 2 * _MARGIN, grid.rows * tile + 2 * _MARGIN)
    canvas = Image.new("RGB", size, _PAPER)
    inner = tile - max(1, tile // _GAP_SHARE)
    num_gone = 0
    shown = [images[place] for place in grid.shown.tolist()]
    for (column, row), image in zip(grid.cells.tolist(), read_tiles(shown, inner), strict=True):
        left, top = _MARGIN + column * tile, _MARGIN + row * tile
        if image is None:
            num_gone += 1
            image = Image.new("RGB", (inner, inner), _GONE)
        space = ((tile - image.width) // 2, (tile - image.height) // 2)
        canvas.paste(image, (left + space[0], top + space[1]))
    middles = np.full((len(images), 2), np.nan)
    middles[grid.shown] = (grid.cells + 0.5) * tile + _MARGIN
    _write_captions(canvas, captions, middles, letters=max(12, tile // 3))
    save_image(canvas, path)
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
        lettering = TextLayout(caption.text, letters)
        text = lettering.shortened(canvas.width / 3)
        half = lettering.width(text) / 2 + letters / 2
        # At the member nearest to the median, which itself may be among other clusters.
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
