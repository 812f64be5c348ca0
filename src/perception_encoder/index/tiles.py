"""Tiles: parts of an image that have rows of their own, so that small things in it are found.

The image and its tiles are rows of one commit. The row of a tile has the metadata of its image,
the image's id in the column `tile_of`, and where the tile is in columns of its own. Its member ends
like the fragment that names the part: `#xywh=320,0,320,240`, in pixels of the image as a viewer
shows it. Listings, counts and analyses leave tiles out; a search shows the image for its best tile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from perception_encoder.index.rows import MetadataValue

TILE_OF: Final = "tile_of"
"""The column that has the id of the image's row; null for images."""

TILE_COLUMNS: Final = (TILE_OF, "tile_x", "tile_y", "tile_width", "tile_height")
"""Columns of an index with tiles: the image, and the box in pixels of the image as shown."""

IS_IMAGE: Final = f"{TILE_OF} IS NULL"
"""The SQL condition that leaves tiles out."""

_MAX_SIDE: Final = 8  # tiles across or down
_MAX_TILES: Final = 16  # of one image: each is a row
_LEAST_PIXELS: Final = 16  # of a tile's side; a smaller one shows nothing to any model
_GRID: Final = re.compile(r"(\d{1,3})[x×](\d{1,3})", re.IGNORECASE)
_MEMBER: Final = re.compile(r"(.*)#xywh=(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", re.DOTALL)


class Box(NamedTuple):
    """A part of an image as a viewer shows it, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return ",".join(map(str, self))

    @property
    def fragment(self) -> str:
        """What names the part after the name of its image."""
        return f"#xywh={self}"


@dataclass(frozen=True, slots=True)
class TileGrid:
    """How images are divided into tiles.

    Attributes:
        columns: tiles across.
        rows: tiles down.

    Raises:
        ValueError: fewer than 2 or more than 16 tiles, or more than 8 on a side.
    """

    columns: int
    rows: int

    def __post_init__(self) -> None:
        is_side = all(1 <= side <= _MAX_SIDE for side in (self.columns, self.rows))
        if not is_side or not 2 <= self.columns * self.rows <= _MAX_TILES:
            raise ValueError(
                f"{self} tiles cannot be made: an image has 2 to {_MAX_TILES} of them, at most "
                f"{_MAX_SIDE} on a side, such as 2x2 or 3x3"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2x2`: columns and rows.

        Raises:
            ValueError: it is not that, or as for `TileGrid`.
        """
        found = _GRID.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text[:40]!r} is no grid of tiles; write columns and rows: 2x2, 3x3")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.columns}x{self.rows}"

    @property
    def count(self) -> int:
        """Number of tiles of an image."""
        return self.columns * self.rows

    def boxes(self, width: int, height: int) -> list[Box]:
        """Return the tiles of an image, row by row; none for one that is too small.

        Args:
            width: of the image as shown, pixels.
            height: likewise.
        """
        if width < _LEAST_PIXELS * self.columns or height < _LEAST_PIXELS * self.rows:
            return []
        across = [round(place * width / self.columns) for place in range(self.columns + 1)]
        down = [round(place * height / self.rows) for place in range(self.rows + 1)]
        return [
            Box(left, top, right - left, lower - top)
            for (top, lower), (left, right) in product(pairwise(down), pairwise(across))
        ]


def tile_member(member: str | None, box: Box) -> str:
    """Return the member of a tile's row."""
    return f"{member or ''}{box.fragment}"


def image_member(member: str | None) -> str | None:
    """Return the member of the image that a row is of: of a tile, without its box."""
    found = None if member is None else _MEMBER.fullmatch(member)
    return member if found is None else found[1] or None


def box_of(metadata: Mapping[str, MetadataValue]) -> Box | None:
    """Return where a tile is, by its columns; None for an image."""
    numbers = [metadata.get(name) for name in TILE_COLUMNS[1:]]
    if metadata.get(TILE_OF) is None or not all(isinstance(one, int) for one in numbers):
        return None
    return Box(*numbers)  # type: ignore[arg-type]


def tile_columns(image_id: str, box: Box) -> dict[str, MetadataValue]:
    """Return the columns of a tile's row."""
    return dict(zip(TILE_COLUMNS, (image_id, *box), strict=True))


def without_tile_columns(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """Return the metadata of the image that a tile is of."""
    return {name: value for name, value in metadata.items() if name not in TILE_COLUMNS}
