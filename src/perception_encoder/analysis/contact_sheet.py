"""Queries and what they found as one picture, to look at and to pass on.

Knows nothing of models or tables: it is given pictures, scores and labels.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from PIL import Image, ImageDraw

from perception_encoder.analysis.lettering import Lettering
from perception_encoder.errors import ImageError, ImageNotFoundError, ImageWriteError
from perception_encoder.preprocess.decode import ImageInput, decode_image
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

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, right and bottom not included."""


@dataclass(frozen=True)
class SheetHit:
    """A picture that was found: its cosine, and a few words such as its file name."""

    image: ImageInput
    score: float
    label: str = ""


@dataclass(frozen=True)
class SheetRow:
    """A query, in words or as a picture or both, and its hits, best first."""

    hits: Sequence[SheetHit]
    text: str = ""
    image: ImageInput | None = None


@dataclass(frozen=True)
class SheetLayout:
    """Where things are on a sheet of equal tiles: a column of queries, then columns of hits.

    Attributes:
        tile: side of a square tile, pixels; all other lengths follow from it.
    """

    tile: int
    gap: int = field(init=False)
    letters: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gap", max(8, self.tile // 12))
        object.__setattr__(self, "letters", max(11, self.tile // 13))

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
