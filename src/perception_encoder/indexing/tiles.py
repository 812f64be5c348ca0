"""Tiles of images in a run: their pixels, their rows, and those of copies in the index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index import Index, Row
from perception_encoder.index.tiles import Box, TileGrid, box_of, tile_columns, tile_member
from perception_encoder.preprocess import CropBox, ImageInput, ImageProcessor, decode_image
from perception_encoder.preprocess.crops import ShownImage
from perception_encoder.preprocess.images import ResizedImage
from perception_encoder.types import Embeddings


@dataclass(frozen=True, slots=True)
class PreparedTile:
    """A tile of an image that was read.

    Attributes:
        box: where it is.
        resized: (S, S, 3) uint8 RGB; None once it is embedded.
        vector: (E,) unit length, if it is embedded.
    """

    box: Box
    resized: NDArray[np.uint8] | None
    vector: NDArray[np.float32] | None = None


def resize_with_tiles(
    processor: ImageProcessor, image: ImageInput, tiles: TileGrid, *, item: str
) -> tuple[ResizedImage, list[PreparedTile]]:
    """Resize an image and each of its tiles; it is decoded once, for "fast" twice.

    Args:
        processor: the model's preprocessing.
        image: the image.
        tiles: how it is divided.
        item: names it in errors.

    Raises:
        ImageError: as `decode_image`.
    """
    decoded = decode_image(image, max_pixels=processor.max_pixels, item=item)
    # The row of the image is the same with tiles as without.
    whole = processor.resize_measured(image if processor.name == "fast" else decoded, item=item)
    shown = ShownImage(decoded, item=item)
    prepared = [
        PreparedTile(box, processor(shown.cut(CropBox(*box)), item=item))
        for box in tiles.boxes(*shown.size)
    ]
    return whole, prepared


def make_tile_row(image: Row, box: Box) -> Row:
    """Return the row of a tile."""
    return replace(
        image,
        member=tile_member(image.member, box),
        metadata={**image.metadata, **tile_columns(image.id, box)},
    )


def content_of(row: Row) -> str:
    """Return what identifies the content of a row: a digest of the file, and the box of a tile."""
    box = box_of(row.metadata)
    return str(row.sha256) if box is None else f"{row.sha256}{box.fragment}"


def find_tiles(
    index: Index, images: Sequence[Row], tiles: TileGrid
) -> Mapping[str, list[tuple[Box, Embeddings]]]:
    """Return the tiles of rows by the rows' ids; images of which one is missing are left out.

    Args:
        index: where the images are.
        images: their rows.
        tiles: how they are divided.
    """
    wanted = {row.id: list(_tile_rows(row, tiles)) for row in images}
    found = index.by_ids(tile.id for rows in wanted.values() for tile, _ in rows)
    return {
        key: [(box, found[tile.id][1]) for tile, box in rows]
        for key, rows in wanted.items()
        if all(tile.id in found and found[tile.id][0].sha256 == tile.sha256 for tile, _ in rows)
    }


def _tile_rows(image: Row, tiles: TileGrid) -> Iterator[tuple[Row, Box]]:
    for box in tiles.boxes(image.width or 0, image.height or 0):
        yield make_tile_row(image, box), box
