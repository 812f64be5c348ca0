"""Contact sheets: queries and their hits as images of limited width, or as one HTML page.

A row holds a query on the left and its hits beside it, in lines of equal tiles. Short rows share a
line of the sheet. A long sheet is saved as several pages.
"""

from __future__ import annotations

import base64
import html
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from PIL import Image, ImageDraw

from perception_encoder.analysis.drawing import (
    Outline,
    SheetImage,
    TextLayout,
    draw_outline,
    read_thumbnails,
    save_image,
)
from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageError, ImageWriteError

logger = logging.getLogger(__name__)

PAGE_SUFFIXES: Final = (".html", ".htm")
_MAX_WIDTH: Final = 1640  # pixels of a sheet
_MAX_HEIGHT: Final = 4000  # pixels of one page of a sheet
_PAPER: Final = "#ffffff"
_TILE: Final = "#f1f3f5"
_BROKEN_TILE: Final = "#dfe3e8"
_INK: Final = "#1b1f24"
_SOFT_INK: Final = "#69717c"
_LINE: Final = "#e3e6ea"

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, right and bottom not included."""
Thumbnail: TypeAlias = Image.Image | ImageError | OSError
"""A small image, or why there is none."""


@dataclass(frozen=True)
class SheetHit:
    """An image, its score (not shown if None), and a short label such as its file name.

    `outline` is the part of it that was found, which gets a frame.
    """

    image: SheetImage
    score: float | None
    label: str = ""
    outline: Outline | None = None


@dataclass(frozen=True)
class SheetRow:
    """A query, as text or as an image or both, and its hits, best first."""

    hits: Sequence[SheetHit]
    text: str = ""
    image: SheetImage | None = None


class SheetBlock(NamedTuple):
    """Where a row stands on a page: its query, and one box for each hit (one if there is none)."""

    row: SheetRow
    query: Box
    hits: list[Box]


@dataclass
class SheetPage:
    """One page of a sheet: its size in pixels, and its blocks."""

    size: tuple[int, int] = (0, 0)
    blocks: list[SheetBlock] = field(default_factory=list)


@dataclass(frozen=True)
class SheetLayout:
    """The lengths of a sheet, in pixels.

    Attributes:
        tile: side of a square tile; all other lengths follow from it.
    """

    tile: int

    @property
    def gap(self) -> int:
        """Between two tiles."""
        return max(8, self.tile // 12)

    @property
    def between(self) -> int:
        """Between two blocks side by side."""
        return 3 * self.gap

    @property
    def font_size(self) -> int:
        """Of the text under a tile."""
        return max(11, self.tile // 14)

    @property
    def line_height(self) -> int:
        """From one line of tiles to the next."""
        return self.tile + 3 * self.font_size + 2 * self.gap

    def block_width(self, num_columns: int) -> int:
        """Width of a query with so many hits beside it."""
        return self.tile + self.gap + num_columns * (self.tile + self.gap)

    def num_columns(self, num_hits: int) -> int:
        """Hits in a line, so that all lines are about equally long."""
        most = 1
        while self.block_width(most + 1) + 4 * self.gap <= _MAX_WIDTH:
            most += 1
        num_lines = max(1, -(-num_hits // most))
        return max(1, -(-num_hits // num_lines))

    def place(self, rows: Sequence[SheetRow]) -> list[SheetPage]:
        """Divide rows into pages, and give each query and hit its box."""
        columns = self.num_columns(max(len(row.hits) for row in rows))
        margin, left, top, bottom = 2 * self.gap, 2 * self.gap, 2 * self.gap, 0
        pages = [SheetPage()]
        for row in self._split(rows, columns):
            width = self.block_width(min(max(1, len(row.hits)), columns))
            height = max(1, -(-len(row.hits) // columns)) * self.line_height
            if bottom and (height > self.line_height or left + width + margin > _MAX_WIDTH):
                left, top, bottom = margin, bottom, 0  # a new line of blocks
            if pages[-1].blocks and not bottom and top + height + margin > _MAX_HEIGHT:
                pages.append(SheetPage())
                top = margin
            page = pages[-1]
            page.blocks.append(self._block(row, left, top, columns))
            bottom = max(bottom, top + height)
            page.size = (
                max(page.size[0], left + width + margin),
                max(page.size[1], bottom + margin),
            )
            left += width + self.between
            if height > self.line_height:
                left = _MAX_WIDTH
        return pages

    def _split(self, rows: Sequence[SheetRow], columns: int) -> Iterator[SheetRow]:
        """Repeat the query of a row that is longer than a page."""
        most = max(1, (_MAX_HEIGHT - 4 * self.gap) // self.line_height) * columns
        for row in rows:
            for start in range(0, max(1, len(row.hits)), most):
                yield replace(row, hits=row.hits[start : start + most])

    def _block(self, row: SheetRow, left: int, top: int, columns: int) -> SheetBlock:
        def box(x: int, y: int) -> Box:
            return x, y, x + self.tile, y + self.tile

        first, step = left + self.tile + 2 * self.gap, self.tile + self.gap
        hits = [
            box(first + number % columns * step, top + number // columns * self.line_height)
            for number in range(max(1, len(row.hits)))
        ]
        return SheetBlock(row, box(left, top), hits)


def save_contact_sheet(
    rows: Sequence[SheetRow],
    path: str | os.PathLike[str],
    *,
    tile: int = 224,
    progress: Callable[[], object] | None = None,
) -> list[Path]:
    """Draw queries and their hits, and save them.

    Args:
        rows: at least one; rows may have different numbers of hits, or none.
        path: where to save. The suffix decides the format: .png, .jpg, .webp and others, or .html
            for one page that holds its thumbnails.
        tile: side of one tile, pixels.
        progress: called after each image.

    Returns:
        The files. A long sheet has several: `name.png`, `name-2.png` and so on.

    Raises:
        ImageWriteError: the file cannot be written, or no image format has this suffix.
        ValueError: no rows, or a tile of less than 32 pixels.
    """
    path = Path(path)
    if path.suffix.lower() in PAGE_SUFFIXES:
        page = write_html(rows, tile=tile, progress=progress)
        with atomic_write(path, ImageWriteError) as partial:
            partial.write_text(page, encoding="utf-8")
        return [path]
    saved = []
    for number, image in enumerate(draw_pages(rows, tile=tile, progress=progress), 1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        save_image(image, name)
        saved.append(name)
    return saved


def draw_pages(
    rows: Sequence[SheetRow], *, tile: int = 224, progress: Callable[[], object] | None = None
) -> Iterator[Image.Image]:
    """Draw the pages of a sheet as RGB images, laid out by `SheetLayout(tile).place(rows)`."""
    _check(rows, tile)
    layout = SheetLayout(tile)
    pages = layout.place(rows)
    thumbnails = _read(rows_of(pages), tile, progress)
    for page in pages:
        canvas = Image.new("RGB", page.size, _PAPER)
        draw = ImageDraw.Draw(canvas)
        for block in page.blocks:
            _draw_rules(draw, layout, block.query)
            _draw_query(canvas, layout, block, thumbnails)
            for hit, box in zip(block.row.hits, block.hits, strict=False):
                _draw_image(canvas, layout, next(thumbnails), box)
                score = [] if hit.score is None else [(f"{hit.score:.3f}", _INK)]
                for line, (text, ink) in enumerate([*score, (hit.label, _SOFT_INK)]):
                    _draw_line(draw, layout, text, box, line=line, ink=ink)
            if not block.row.hits:
                _draw_centered(draw, layout, "nothing found", block.hits[0])
        yield canvas


def write_html(
    rows: Sequence[SheetRow], *, tile: int = 224, progress: Callable[[], object] | None = None
) -> str:
    """Return a sheet as one HTML page, which holds its thumbnails and needs no other file."""
    _check(rows, tile)
    thumbnails = _read(rows, tile, progress)
    parts = []
    for row in rows:
        query = _figure(next(thumbnails), "") if row.image is not None else ""
        heading = f"<h2>{html.escape(row.text)}</h2>" if row.text else ""
        figures = []
        for hit in row.hits:
            score = "" if hit.score is None else f"<b>{hit.score:.3f}</b> "
            figures.append(_figure(next(thumbnails), f"{score}{html.escape(hit.label)}"))
        found = "\n".join(figures) or "<p>nothing found</p>"
        parts.append(f"<section>{heading}{query}\n<div>\n{found}\n</div></section>")
    return _PAGE.replace("TILE", str(tile)).replace("SECTIONS", "\n".join(parts))


def rows_of(pages: Sequence[SheetPage]) -> list[SheetRow]:
    """Return the rows of all pages, a long row in the parts in which it is drawn."""
    return [block.row for page in pages for block in page.blocks]


_PAGE: Final = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Contact sheet</title>
<style>
body { margin: 1.5rem; font: 14px/1.4 system-ui, sans-serif; color: #1b1f24; background: #fff; }
section + section { margin-top: 1rem; padding-top: 1rem; border-top: 1px solid #e3e6ea; }
h2 { margin: 0 0 .75rem; font-size: 1.1rem; overflow-wrap: anywhere; }
div { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { width: TILEpx; margin: 0; }
section > figure { margin-bottom: 1rem; outline: 2px solid #69717c; outline-offset: 4px; }
figure span { display: flex; align-items: center; justify-content: center; width: TILEpx;
  height: TILEpx; border-radius: 9px; background: #f1f3f5; overflow: hidden; color: #69717c; }
figcaption { color: #69717c; overflow-wrap: anywhere; }
figcaption b { color: #1b1f24; }
</style>
SECTIONS
"""


def _check(rows: Sequence[SheetRow], tile: int) -> None:
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    if tile < 32:
        raise ValueError(f"tile must be at least 32 pixels, got {tile}")


def _read(
    rows: Sequence[SheetRow], tile: int, progress: Callable[[], object] | None
) -> Iterator[Thumbnail]:
    """Yield the thumbnails of all rows in order: of each query that has an image, then its hits."""
    entries = [entry for row in rows for entry in _entries_of(row)]
    images = ((image, name) for image, name, _ in entries)
    for found, (_, _, outline) in zip(read_thumbnails(images, tile), entries, strict=True):
        if not isinstance(found, Image.Image):
            logger.warning("%s", found)
        elif outline is not None:
            draw_outline(found, outline)
        if progress is not None:
            progress()
        yield found


def _entries_of(row: SheetRow) -> Iterator[tuple[SheetImage, str, Outline | None]]:
    """Yield the images of a row, each with its name in errors and the part that gets a frame."""
    if row.image is not None:
        yield row.image, f"the query {row.text}".rstrip(), None
    yield from ((hit.image, hit.label, hit.outline) for hit in row.hits)


def _figure(found: Thumbnail, caption: str) -> str:
    if not isinstance(found, Image.Image):
        return f"<figure><span>{_reason(found)}</span><figcaption>{caption}</figcaption></figure>"
    stream = io.BytesIO()
    found.save(stream, "JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    image = f'<img src="data:image/jpeg;base64,{data}" alt="">'
    return f"<figure><span>{image}</span><figcaption>{caption}</figcaption></figure>"


def _reason(error: ImageError | OSError) -> str:
    return "file not found" if isinstance(error, FileNotFoundError) else "cannot be opened"


def _draw_rules(draw: ImageDraw.ImageDraw, layout: SheetLayout, query: Box) -> None:
    """Draw hairlines above a block, and on the left of a block that stands beside another."""
    left, top, _, bottom = query
    margin = 2 * layout.gap
    if top > margin:
        y = top - layout.gap
        draw.line((left, y, draw.im.size[0] - margin, y), fill=_LINE)
    if left > margin:
        x = left - layout.between // 2
        draw.line((x, top, x, bottom), fill=_LINE)


def _draw_query(
    canvas: Image.Image, layout: SheetLayout, block: SheetBlock, thumbnails: Iterator[Thumbnail]
) -> None:
    draw, box, text = ImageDraw.Draw(canvas), block.query, block.row.text
    if block.row.image is not None:
        _draw_image(canvas, layout, next(thumbnails), box)
        lines = TextLayout(text, layout.font_size).lines(layout.tile, 2)
        for number, line in enumerate(lines):
            _draw_line(draw, layout, line, box, line=number, ink=_INK)
        return
    text_layout, lines = _fit(text, layout)
    step = round(text_layout.font.size * 1.3)
    top = (box[1] + box[3] - step * len(lines)) / 2
    for number, line in enumerate(lines):
        draw.text((box[0], top + number * step), line, fill=_INK, font=text_layout.font)


def _fit(text: str, layout: SheetLayout) -> tuple[TextLayout, list[str]]:
    """Break a query into lines, in the largest font size at which all of it fits a tile."""
    for size in (layout.tile // 8, layout.tile // 10, layout.font_size):
        text_layout = TextLayout(text, size)
        max_lines = int(layout.tile // (size * 1.3))
        lines = text_layout.lines(layout.tile, max_lines + 1)
        if len(lines) <= max_lines:
            break
    return text_layout, text_layout.lines(layout.tile, max_lines)


def _draw_image(canvas: Image.Image, layout: SheetLayout, found: Thumbnail, box: Box) -> None:
    """Draw an image in the middle of its tile, all of it, in its own proportions."""
    draw = ImageDraw.Draw(canvas)
    radius = layout.tile // 24
    corners = (box[0], box[1], box[2] - 1, box[3] - 1)
    if not isinstance(found, Image.Image):
        draw.rounded_rectangle(corners, radius, fill=_BROKEN_TILE)
        _draw_centered(draw, layout, _reason(found), box)
        return
    draw.rounded_rectangle(corners, radius, fill=_TILE)
    left = (box[0] + box[2] - found.width) // 2
    top = (box[1] + box[3] - found.height) // 2
    mask = Image.new("L", (layout.tile, layout.tile), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, layout.tile - 1, layout.tile - 1), radius, 255)
    offset = (left - box[0], top - box[1])
    part = mask.crop((*offset, offset[0] + found.width, offset[1] + found.height))
    canvas.paste(found, (left, top), part)


def _draw_line(
    draw: ImageDraw.ImageDraw, layout: SheetLayout, text: str, box: Box, *, line: int, ink: str
) -> None:
    """Write one of the lines under a tile."""
    text_layout = TextLayout(text, layout.font_size)
    top = box[3] + layout.gap // 2 + round(line * layout.font_size * 1.4)
    short = text_layout.shortened(layout.tile)
    draw.text((box[0], top), short, fill=ink, font=text_layout.font)


def _draw_centered(draw: ImageDraw.ImageDraw, layout: SheetLayout, text: str, box: Box) -> None:
    text_layout = TextLayout(text, layout.font_size)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    short = text_layout.shortened(layout.tile)
    draw.text(middle, short, fill=_SOFT_INK, font=text_layout.font, anchor="mm")
