"""A map of an index as one HTML page: zoom, point at an image, click to open its file.

The page needs no network. It embeds thumbnails in a few large sheets. Its code is `map_page.html`.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder.analysis.ranked_images import Numbers
from perception_encoder.analysis.thumbnails import SheetImage, read_tiles
from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageWriteError
from perception_encoder.index import Row

_TEMPLATE: Final = Path(__file__).with_name("map_page.html")
_DATA: Final = "/*DATA*/null"
_SHEET_SIDE: Final = 2048
_QUALITY: Final = 72
_SIDES: Final = ((4_000, 96), (12_000, 64), (40_000, 40))  # most images, pixels of a thumbnail
_SMALLEST: Final = 24
_RESOLUTION: Final = 65_535


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
