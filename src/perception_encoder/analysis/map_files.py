"""Write a map of an index: as a PNG image, or as an HTML page that stands alone."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception_encoder.analysis.drawing import SheetImage, TextLayout, read_tiles, save_image
from perception_encoder.analysis.ranked_images import Numbers
from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageWriteError
from perception_encoder.index import Row

MAX_SIDE: Final = 48
_ROOM: Final = 1.7  # cells for each image; the empty ones show as gaps between clusters
_FINEST: Final = 5000
_PAPER: Final = "#ffffff"
_INK: Final = "#1b1f24"
_GONE: Final = "#dfe3e8"
_LABEL: Final = (255, 255, 255, 225)
_MARGIN: Final = 16
_GAP_SHARE: Final = 16  # of a tile's side between tiles
_TEMPLATE: Final = Path(__file__).with_name("map_page.html")
_DATA: Final = "/*DATA*/null"
_SHEET_SIDE: Final = 2048
_QUALITY: Final = 72
_SIDES: Final = ((4_000, 96), (12_000, 64), (40_000, 40))  # most images, pixels of a thumbnail
_SMALLEST: Final = 24
_RESOLUTION: Final = 65_535


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


@dataclass(frozen=True)
class MapGroup:
    """The name of a cluster, and the number of its images."""

    title: str
    size: int


@dataclass(frozen=True)
class MapPage:
    """The content of the page.

    Attributes:
        title: the title of the map.
        rows: C images.
        places: (C, 2) float32, their positions: x to the right and y upwards, from -1 to 1.
        labels: (C,) int64, the position of each image's cluster in `groups`.
        scores: (C,) float32, how central each image is in its cluster; the most central are shown
            first where there is no room for all.
        groups: the clusters.
        is_named: whether the map shows the titles of clusters.
        cell: the least distance of two positions, if all images have room; else 0.
    """

    title: str
    rows: Sequence[Row]
    places: NDArray[np.float32]
    labels: Numbers
    scores: NDArray[np.float32]
    groups: Sequence[MapGroup]
    is_named: bool
    cell: float = 0.0


def write_page(page: MapPage, images: Sequence[SheetImage], path: str | os.PathLike[str]) -> int:
    """Write the page; an existing file is replaced when all is written.

    Args:
        page: the content.
        images: the images of `page.rows`, in that order.
        path: the file.

    Returns:
        The number of images that could not be read; they are gray.

    Raises:
        ImageWriteError: the file cannot be written.
    """
    side = next((side for most, side in _SIDES if len(images) <= most), _SMALLEST)
    atlas = _Atlas(side)
    for image in read_tiles(images, side):
        atlas.add(image)
    data = {
        "title": page.title,
        "names": [_name(row) for row in page.rows],
        "addresses": [_address(row) for row in page.rows],
        "places": _quantize(page.places),
        "labels": page.labels.tolist(),
        "order": np.argsort(-page.scores, kind="stable").tolist(),
        "groups": [[group.title, group.size] for group in page.groups],
        "isNamed": page.is_named,
        "cell": page.cell / 2,
        "side": side,
        "columns": _SHEET_SIDE // side,
        "sizes": atlas.sizes,
        "sheets": list(atlas.sheets()),
    }
    text = _fill_template(data)
    with atomic_write(path, ImageWriteError) as partial:
        partial.write_text(text, encoding="utf-8")
    return atlas.num_gone


class _Atlas:
    """Thumbnails in rows and columns of sheets; a sheet is encoded when it is full."""

    def __init__(self, side: int) -> None:
        self.sizes: Final[list[int]] = []
        """Width and height of each thumbnail in turn; 0 for images that could not be read."""
        self.num_gone = 0
        self._side = side
        self._columns = _SHEET_SIDE // side
        self._packed: list[str] = []
        self._tiles: list[Image.Image | None] = []

    def add(self, image: Image.Image | None) -> None:
        self.num_gone += image is None
        self.sizes.extend((0, 0) if image is None else image.size)
        self._tiles.append(image)
        if len(self._tiles) == self._columns**2:
            self._pack()

    def sheets(self) -> Iterable[str]:
        """Return the sheets as data URLs."""
        if self._tiles:
            self._pack()
        return self._packed

    def _pack(self) -> None:
        num_rows = -(-len(self._tiles) // self._columns)
        width = min(self._columns, len(self._tiles)) * self._side
        sheet = Image.new("RGB", (width, num_rows * self._side), "#ffffff")
        for number, tile in enumerate(self._tiles):
            row, column = divmod(number, self._columns)
            if tile is not None:
                sheet.paste(tile, (column * self._side, row * self._side))
        self._tiles.clear()
        file = io.BytesIO()
        sheet.save(file, "WEBP", quality=_QUALITY)
        self._packed.append(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")


def _fill_template(data: dict[str, Any]) -> str:
    """Insert the data into the page; `<` is escaped, since a name may hold `</script>`."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    head, tail = _TEMPLATE.read_text(encoding="utf-8").split(_DATA)
    return head + text + tail


def _quantize(places: NDArray[np.float32]) -> list[int]:
    """Return x and y of each position in turn, as integers, y downwards."""
    flipped = places * np.array([1, -1], np.float32)
    levels = np.rint((flipped + 1) / 2 * _RESOLUTION).astype(np.int64)
    return [int(level) for level in levels.ravel()]


def _name(row: Row) -> str:
    return Path(row.member or row.uri).name


def _address(row: Row) -> str:
    """Return the URL of an image; empty for an image inside an archive."""
    if row.member is not None:
        return ""
    if "://" in row.uri:
        return row.uri if row.uri.startswith(("http://", "https://")) else ""
    return Path(os.path.abspath(row.uri)).as_uri()
