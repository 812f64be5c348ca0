"""Maps of an index: similar images are near each other in the plane.

Embeddings are projected on their principal directions block by block, which takes 500 bytes an
image whatever E is; then t-SNE (openTSNE) places them. openTSNE keeps neighbors about as well as
scikit-learn's t-SNE and UMAP (`benchmarks/results/clusters.json`). Its time grows linearly with the
number of images, and it takes 13 MB, where UMAP's compiler takes 200 MB. A map is written as an
image, an HTML page, or a table of positions.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.cluster_names import write_rows_with
from perception_encoder.analysis.clusters import NamedClusters
from perception_encoder.analysis.drawing import image_source_of
from perception_encoder.analysis.map_files import (
    Caption,
    MapGroup,
    MapPage,
    build_grid,
    draw_map,
    write_page,
)
from perception_encoder.analysis.ranked_images import Numbers, RankedImages, RankedVectors
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.index import Index
from perception_encoder.types import Embeddings
from perception_encoder.vectors import find_nearest_rows

_DIRECTIONS: Final = 128
_PERPLEXITY: Final = 30  # openTSNE's default: about the number of neighbors that stay near
_NEIGHBORS: Final = 3 * _PERPLEXITY
_FEWEST: Final = 8  # fewer images are placed by their two principal directions alone
_START_SPREAD: Final = 1e-4  # standard deviation of t-SNE's initial positions
_STEPS: Final = (250, 500)  # openTSNE's defaults for its two phases
_REPORT_EVERY: Final = 25  # steps
_REPORTS: Final = sum(_STEPS) // _REPORT_EVERY
MAX_IMAGES: Final = 100_000
"""Of a larger index, a random sample of this size is placed: more takes hours."""

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
PAGE_SUFFIXES: Final = (".html", ".htm")
TABLE_SUFFIXES: Final = (".parquet",)
MAP_SUFFIXES: Final = (*IMAGE_SUFFIXES, *PAGE_SUFFIXES, *TABLE_SUFFIXES)
"""The suffix of a map's file decides its format."""

_TILE: Final = 64  # pixels
_LARGEST_TILE: Final = 160
_WIDTH: Final = 1600  # pixels of a map with few images


def require_projection() -> None:
    """Make sure that maps can be made, before the work begins.

    Raises:
        BackendUnavailableError: openTSNE is not installed.
    """
    if importlib.util.find_spec("openTSNE") is None:
        raise BackendUnavailableError(
            "maps need openTSNE; install it: pip install 'perception-encoder[map]'"
        )


def project_vectors(
    vectors: RankedVectors,
    chosen: Numbers,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """Return (C, 2) float32: the position of each chosen image, from -1 to 1, centered at 0.

    The same embeddings and seed give the same positions on the same machine.

    Args:
        vectors: reads the embeddings.
        chosen: (C,) numbers of images, ascending.
        seed: of the random generator.
        progress: called with the share that is done, from 0 to 1; it may raise to end the work.

    Raises:
        BackendUnavailableError: openTSNE is not installed.
    """
    require_projection()
    points = _main_directions(vectors, chosen)
    start = points[:, :2]
    if len(points) < _FEWEST or not start.any():
        return _fitted(start)
    return _fitted(_tsne(points, start, seed, progress))


def _main_directions(vectors: RankedVectors, chosen: Numbers) -> Embeddings:
    """Return (C, d) float32: the centered embeddings along their d principal directions."""
    embed_dim = vectors.embed_dim
    total, products = np.zeros(embed_dim), np.zeros((embed_dim, embed_dim))
    for _, block in vectors.blocks(chosen):
        total += block.sum(axis=0, dtype=np.float64)
        products += block.T @ block
    mean = total / max(1, len(chosen))
    spread = products / max(1, len(chosen)) - np.outer(mean, mean)
    directions = np.linalg.eigh(spread)[1][:, ::-1][:, :_DIRECTIONS]
    # The sign of a direction is arbitrary: its largest component is made positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    points = np.empty((len(chosen), max(2, directions.shape[1])), np.float32)
    points[:, directions.shape[1] :] = 0
    for numbers, block in vectors.blocks(chosen):
        places = np.searchsorted(chosen, numbers)
        points[places, : directions.shape[1]] = (block - mean) @ directions
    points[np.abs(points) < 1e-6] = 0  # so that equal embeddings have equal positions
    return points


def _tsne(
    points: Embeddings, start: Embeddings, seed: int, progress: Callable[[float], None] | None
) -> NDArray[np.float32]:
    import openTSNE

    num_neighbors = min(_NEIGHBORS, len(points) - 1)
    # Half of a squared distance, without that of the query, is one product.
    half = (points**2).sum(axis=1, keepdims=True) / 2
    products, found = find_nearest_rows(
        np.hstack([points, np.ones_like(half)]), np.hstack([points, -half]), num_neighbors + 1
    )
    squares = 2 * (half - products)
    # The first neighbor is the image itself, or one with an equal embedding.
    neighbors = openTSNE.nearest_neighbors.PrecomputedNeighbors(
        found[:, 1:].astype(np.int32), np.sqrt(np.maximum(squares[:, 1:], 0))
    )
    affinities = openTSNE.affinity.PerplexityBasedNN(
        perplexity=min(_PERPLEXITY, num_neighbors / 3), knn_index=neighbors
    )
    begun = start / start.std(axis=0)[0] * _START_SPREAD
    num_calls = itertools.count(1)

    def report(*_: object) -> None:
        if progress is not None:
            progress(next(num_calls) / _REPORTS)

    tsne = openTSNE.TSNE(
        random_state=seed,
        initialization=begun,
        early_exaggeration_iter=_STEPS[0],
        n_iter=_STEPS[1],
        n_jobs=-1,  # all cores; the positions stay the same
        callbacks=report,
        callbacks_every_iters=_REPORT_EVERY,
    )
    return np.asarray(tsne.fit(affinities=affinities), np.float32)


def _fitted(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move and scale positions, keeping proportions, to fill the square from -1 to 1."""
    if not len(places):
        return places
    low, high = places.min(axis=0), places.max(axis=0)
    reach = max(float((high - low).max()) / 2, np.finfo(np.float32).tiny)
    return np.asarray(np.clip((places - (low + high) / 2) / reach, -1, 1), np.float32)


@dataclass(frozen=True)
class IndexMap:
    """The positions of images.

    Attributes:
        numbers: (C,) int64 ascending, the numbers of the images that have a position.
        places: (C, 2) float32, their positions: x to the right and y upwards, from -1 to 1.
    """

    numbers: Numbers
    places: NDArray[np.float32]


def map_index(
    index: Index,
    images: RankedImages,
    *,
    where: str | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> IndexMap:
    """Place the images of an index; the same index and seed give the same positions.

    Args:
        index: the index.
        images: its images.
        where: the condition that `images` was made with.
        seed: of the random generator.
        progress: as in `project_vectors`.

    Raises:
        BackendUnavailableError: the extra `map` is not installed.
    """
    numbers = np.arange(len(images))
    if len(images) > MAX_IMAGES:
        drawn = np.random.default_rng(seed).choice(len(images), MAX_IMAGES, replace=False)
        numbers = np.sort(drawn)
    vectors = RankedVectors(index, images, where)
    return IndexMap(numbers, project_vectors(vectors, numbers, seed=seed, progress=progress))


@dataclass(frozen=True)
class WrittenMap:
    """The numbers of images on a map.

    Attributes:
        num_images: images of the index.
        num_shown: images on the map.
        num_unreadable: images on the map that are gray because they could not be read.
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
    """Check that the suffix of a path is one of a map.

    Raises:
        ValueError: the suffix is none of `MAP_SUFFIXES`.
    """
    if Path(path).suffix.lower() not in MAP_SUFFIXES:
        raise ValueError(f"{path}: the name of a map ends in .png, .html or .parquet")


def _draw_image(out: Path, clusters: NamedClusters, placed: IndexMap) -> WrittenMap:
    grid = build_grid(placed.places)
    labels = clusters.found.labels[placed.numbers]
    captions = [
        Caption(name.text, np.flatnonzero(labels == place))
        for place, name in enumerate(clusters.names)
    ]
    images = [image_source_of(row) for row in clusters.found.rows(placed.numbers)]
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
    grid = build_grid(placed.places)
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
    num_unreadable = write_page(page, [image_source_of(row) for row in rows], out)
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
    write_rows_with(index, clusters.where, columns, out)
    return WrittenMap(len(numbers), len(placed.numbers))
