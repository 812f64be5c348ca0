"""Maps of an index in three formats: an image, an HTML page, and a table of positions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from perception_encoder.analysis.cluster_names import write_labeled
from perception_encoder.analysis.clusters import NamedClusters
from perception_encoder.analysis.map_image import Caption, draw_map, grid_of
from perception_encoder.analysis.map_layout import IndexMap
from perception_encoder.analysis.map_page import MapGroup, MapPage, write_page
from perception_encoder.analysis.thumbnails import stored_image
from perception_encoder.index import Index

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
PAGE_SUFFIXES: Final = (".html", ".htm")
TABLE_SUFFIXES: Final = (".parquet",)
MAP_SUFFIXES: Final = (*IMAGE_SUFFIXES, *PAGE_SUFFIXES, *TABLE_SUFFIXES)
"""The suffix of a map's file decides its format."""

_TILE: Final = 64  # pixels
_LARGEST_TILE: Final = 160
_WIDTH: Final = 1600  # pixels of a map with few images


@dataclass(frozen=True)
class WrittenMap:
    """What a map shows.

    Attributes:
        num_images: of the index that were to be placed.
        num_shown: of these, on the map.
        num_unreadable: of these, gray because they could not be read.
    """

    num_images: int
    num_shown: int
    num_unreadable: int = 0


def write_map(
    path: str | os.PathLike[str], index: Index, clusters: NamedClusters, placed: IndexMap
) -> WrittenMap:
    """Write a map of an index.

    Args:
        path: an image, an .html page or a .parquet table, see `MAP_SUFFIXES`.
        index: the index.
        clusters: its clusters.
        placed: the positions of its images, from `map_index`.

    Raises:
        ValueError: another suffix.
        ImageWriteError, ExchangeError: the file cannot be written.
    """
    check_suffix(path)
    out = Path(path)
    suffix = out.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return _draw_image(out, clusters, placed)
    if suffix in PAGE_SUFFIXES:
        return _write_page(out, index, clusters, placed)
    return _write_table(out, index, clusters, placed)


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse a name that is no map's.

    Raises:
        ValueError: the suffix is none of `MAP_SUFFIXES`.
    """
    if Path(path).suffix.lower() not in MAP_SUFFIXES:
        raise ValueError(f"{path}: the name of a map ends in .png, .html or .parquet")


def _draw_image(out: Path, clusters: NamedClusters, placed: IndexMap) -> WrittenMap:
    grid = grid_of(placed.places)
    labels = clusters.found.labels[placed.numbers]
    captions = [
        Caption(name.text, np.flatnonzero(labels == place))
        for place, name in enumerate(clusters.names)
    ]
    images = [stored_image(row) for row in clusters.found.rows(placed.numbers)]
    tile = min(_LARGEST_TILE, max(_TILE, _WIDTH // max(grid.columns, grid.rows, 1)))
    num_unreadable = draw_map(images, grid, captions, out, tile=tile)
    return WrittenMap(len(clusters.found.images), len(grid.shown), num_unreadable)


def _write_page(out: Path, index: Index, clusters: NamedClusters, placed: IndexMap) -> WrittenMap:
    found = clusters.found
    rows = found.rows(placed.numbers)
    groups = [
        MapGroup(clusters.title(place), cluster.size)
        for place, cluster in enumerate(found.clusters)
    ]
    grid = grid_of(placed.places)
    is_grid = len(grid.shown) == len(rows)
    page = MapPage(
        title=Path(index.path).name,
        rows=rows,
        places=grid.middles if is_grid else placed.places,
        labels=found.labels[placed.numbers],
        scores=found.scores[placed.numbers],
        groups=groups,
        is_named=bool(clusters.names),
        cell=grid.cell if is_grid else 0,
    )
    num_unreadable = write_page(page, [stored_image(row) for row in rows], out)
    return WrittenMap(len(found.images), len(rows), num_unreadable)


def _write_table(out: Path, index: Index, clusters: NamedClusters, placed: IndexMap) -> WrittenMap:
    import pyarrow as pa

    numbers = clusters.found.images.numbers
    places = np.full((len(numbers), 2), np.nan, np.float32)
    places[placed.numbers] = placed.places
    x, y = places[numbers].T
    columns = {
        "x": pa.array(x, pa.float32(), from_pandas=True),  # null where an image has no place
        "y": pa.array(y, pa.float32(), from_pandas=True),
        **clusters.columns(),
    }
    write_labeled(index, clusters.where, columns, out)
    return WrittenMap(len(numbers), len(placed.numbers))
