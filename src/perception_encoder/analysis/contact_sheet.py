"""Queries and what they found as one image, to look at and to pass on.

Knows nothing of models or indexes: it is given images, scores and labels.
"""

from __future__ import annotations

import io
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from PIL import Image, ImageDraw

from perception_encoder.analysis.text_layout import TextLayout
from perception_encoder.analysis.whole_file import whole_file
from perception_encoder.errors import ImageError, ImageWriteError
from perception_encoder.preprocess.decode import ImageInput, decode_scaled
from perception_encoder.preprocess.images import num_usable_cores
from perception_encoder.preprocess.modes import to_rgb, upright

logger = logging.getLogger(__name__)

_PAPER: Final = "#ffffff"
_TILE: Final = "#f1f3f5"
_BROKEN_TILE: Final = "#dfe3e8"
_INK: Final = "#1b1f24"
_SOFT_INK: Final = "#69717c"
_LINE: Final = "#e3e6ea"
_MAX_ENLARGEMENT: Final = 4  # of small drawings; beyond it they only blur
_JPEG_QUALITY: Final = 90

SheetImage: TypeAlias = ImageInput | Callable[[], bytes]
"""An image, or what reads its file when it is its turn to be drawn; raises ImageError, OSError."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, right and bottom not included."""
_AHEAD: Final = 4  # for each thread


@dataclass(frozen=True)
class SheetHit:
    """An image that was found: its cosine, and a few words such as its file name."""

    image: SheetImage
    score: float
    label: str = ""


@dataclass(frozen=True)
class SheetRow:
    """A query, in words or as an image or both, and its hits, best first."""

    hits: Sequence[SheetHit]
    text: str = ""
    image: SheetImage | None = None


@dataclass(frozen=True)
class SheetLayout:
    """Where things are on a sheet of equal tiles: a column of queries, then columns of hits.

    Attributes:
        tile: side of a square tile, pixels; all other lengths follow from it.
    """

    tile: int

    @property
    def gap(self) -> int:
        """Between two tiles."""
        return max(8, self.tile // 12)

    @property
    def letters(self) -> int:
        """Size of the letters under a tile."""
        return max(11, self.tile // 14)

    @property
    def row_height(self) -> int:
        """From one row's tiles to the next row's."""
        return self.tile + 3 * self.letters + 2 * self.gap

    def size(self, num_rows: int, num_columns: int) -> tuple[int, int]:
        """Width and height of a sheet with so many columns of hits."""
        right = self.hit_box(0, num_columns - 1)[2] if num_columns else self.query_box(0)[2]
        return right + 2 * self.gap, num_rows * self.row_height + 2 * self.gap

    def query_box(self, row: int) -> Box:
        """The tile of a row's query."""
        left, top = 2 * self.gap, 2 * self.gap + row * self.row_height
        return left, top, left + self.tile, top + self.tile

    def hit_box(self, row: int, column: int) -> Box:
        """The tile of a hit."""
        _, top, right, bottom = self.query_box(row)
        left = right + 3 * self.gap + column * (self.tile + self.gap)
        return left, top, left + self.tile, bottom


def contact_sheet(
    rows: Sequence[SheetRow], path: str | os.PathLike[str], *, tile: int = 224
) -> None:
    """Draw queries and their hits, one row each, and save the image.

    Args:
        rows: at least one; they may have different numbers of hits, or none.
        path: where to save; the ending decides the format: .png, .jpg, .webp and others.
        tile: side of one tile, pixels.

    Raises:
        ImageWriteError: it cannot be saved there, or the ending is no image's.
        ValueError: no rows, or a tile of less than 32 pixels.
    """
    save_image(draw_contact_sheet(rows, tile=tile), path)


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Save what was drawn; the ending decides the format.

    Raises:
        ImageWriteError: it cannot be saved there, or the ending is no image's.
    """
    Image.init()
    name = os.fsdecode(path)
    encoded = io.BytesIO()  # on a full disk Pillow itself cuts a file off and says nothing
    try:
        kind = Image.registered_extensions()[os.path.splitext(name)[1].lower()]
        image.save(encoded, kind, quality=_JPEG_QUALITY)
    except (KeyError, ValueError, OSError) as err:
        raise ImageWriteError(
            f"{name}: the image cannot be saved: {err}; choose a name that ends in .png or .jpg",
            item=name,
        ) from err
    with whole_file(path, ImageWriteError) as partial:
        partial.write_bytes(encoded.getbuffer())


def draw_contact_sheet(rows: Sequence[SheetRow], *, tile: int = 224) -> Image.Image:
    """Draw what `contact_sheet` saves, as an RGB image laid out by `SheetLayout(tile)`."""
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    if tile < 32:
        raise ValueError(f"tile must be at least 32 pixels, got {tile}")
    layout = SheetLayout(tile)
    num_columns = max(1, *(len(row.hits) for row in rows))
    canvas = Image.new("RGB", layout.size(len(rows), num_columns), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        if number:
            _draw_rule(draw, layout, number)
        _draw_query(canvas, layout, row, layout.query_box(number))
        for column, hit in enumerate(row.hits):
            box = layout.hit_box(number, column)
            _draw_image(canvas, layout, hit.image, box, item=hit.label)
            _draw_line(draw, layout, f"{hit.score:.3f}", box, line=0, ink=_INK)
            _draw_line(draw, layout, hit.label, box, line=1, ink=_SOFT_INK)
        if not row.hits:
            _draw_centered(draw, layout, "nothing found", layout.hit_box(number, 0))
    return canvas


def thumbnail(image: SheetImage, tile: int, *, item: str = "") -> Image.Image:
    """Fit an image into a square of `tile` pixels, in its own proportions; RGB.

    Raises:
        ImageError: it cannot be used; `item` names it.
        OSError: it cannot be read.
    """
    source = image() if callable(image) else image
    decoded = decode_scaled(source, item=item or None, min_side=tile).image
    small = to_rgb(upright(decoded), item=item)
    scale = min(tile / max(small.size), _MAX_ENLARGEMENT)
    size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
    return small.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _draw_rule(draw: ImageDraw.ImageDraw, layout: SheetLayout, row: int) -> None:
    """Draw a hairline above a row."""
    left, top, _, _ = layout.query_box(row)
    height = top - layout.gap
    draw.line((left, height, draw.im.size[0] - left, height), fill=_LINE)


def _draw_query(canvas: Image.Image, layout: SheetLayout, row: SheetRow, box: Box) -> None:
    draw = ImageDraw.Draw(canvas)
    if row.image is not None:
        _draw_image(canvas, layout, row.image, box, item=f"the query {row.text}".rstrip())
        lettering = TextLayout(row.text, layout.letters)
        for line, text in enumerate(lettering.lines(layout.tile, 2)):
            _draw_line(draw, layout, text, box, line=line, ink=_INK)
        return
    lettering, lines = _fitted(row.text, layout)
    step = round(lettering.font.size * 1.3)
    top = (box[1] + box[3] - step * len(lines)) / 2
    for number, text in enumerate(lines):
        draw.text((box[0], top + number * step), text, fill=_INK, font=lettering.font)


def _fitted(text: str, layout: SheetLayout) -> tuple[TextLayout, list[str]]:
    """Break a query into lines in the largest letters in which all of it fits a tile."""
    sizes = [layout.tile // 8, layout.tile // 10, layout.letters]
    for size in sizes:
        lettering = TextLayout(text, size)
        max_lines = int(layout.tile // (size * 1.3))
        lines = lettering.lines(layout.tile, max_lines + 1)
        if len(lines) <= max_lines:
            break
    return lettering, lettering.lines(layout.tile, max_lines)


def _draw_image(
    canvas: Image.Image, layout: SheetLayout, image: SheetImage, box: Box, *, item: str
) -> None:
    """Draw an image in the middle of its tile, all of it, in its own proportions."""
    draw = ImageDraw.Draw(canvas)
    radius = layout.tile // 24
    corners = (box[0], box[1], box[2] - 1, box[3] - 1)
    try:
        small = thumbnail(image, layout.tile, item=item)
    except (ImageError, OSError) as err:
        logger.warning("%s", err)
        draw.rounded_rectangle(corners, radius, fill=_BROKEN_TILE)
        is_missing = isinstance(err, FileNotFoundError)
        _draw_centered(draw, layout, "file not found" if is_missing else "cannot be opened", box)
        return
    draw.rounded_rectangle(corners, radius, fill=_TILE)
    left = (box[0] + box[2] - small.width) // 2
    top = (box[1] + box[3] - small.height) // 2
    mask = Image.new("L", (layout.tile, layout.tile), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, layout.tile - 1, layout.tile - 1), radius, 255)
    offset = (left - box[0], top - box[1])
    part = mask.crop((*offset, offset[0] + small.width, offset[1] + small.height))
    canvas.paste(small, (left, top), part)


def _draw_line(
    draw: ImageDraw.ImageDraw, layout: SheetLayout, text: str, box: Box, *, line: int, ink: str
) -> None:
    """Write one line of those under a tile."""
    lettering = TextLayout(text, layout.letters)
    top = box[3] + layout.gap // 2 + round(line * layout.letters * 1.4)
    short = lettering.shortened(layout.tile)
    draw.text((box[0], top), short, fill=ink, font=lettering.font)


def _draw_centered(draw: ImageDraw.ImageDraw, layout: SheetLayout, text: str, box: Box) -> None:
    lettering = TextLayout(text, layout.letters)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    draw.text(
        middle, lettering.shortened(layout.tile), fill=_SOFT_INK, font=lettering.font, anchor="mm"
    )


def read_tiles(images: Iterable[SheetImage], side: int) -> Iterator[Image.Image | None]:
    """Yield each image, RGB, fitted into a square of `side` pixels; None of an unreadable one."""
    num_threads = num_usable_cores()
    waiting: deque[Future[Image.Image | None]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        begun = (pool.submit(_tile, image, side) for image in images)
        try:
            waiting.extend(islice(begun, num_threads * _AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(islice(begun, 1))
        finally:
            for one in waiting:
                one.cancel()


def _tile(image: SheetImage, side: int) -> Image.Image | None:
    try:
        return thumbnail(image, side)
    except (ImageError, OSError) as err:
        logger.info("%s", err)
        return None
