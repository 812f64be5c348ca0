"""`pe map`: an index's images in the plane, alike ones near each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder.cli.cluster_options import (
    ClustersOption,
    NamedClusters,
    NamesOption,
    cluster_columns,
    finish,
    image_of,
    named_clusters,
    say_what_was_found,
)
from perception_encoder.cli.options import (
    DeviceOption,
    IndexModelOption,
    IndexOption,
    WhereOption,
    find_index,
)
from perception_encoder.cli.output import check_file, say

if TYPE_CHECKING:
    from perception_encoder.analysis.map_layout import IndexMap
    from perception_encoder.index import Index

_IMAGES: Final = (".png", ".jpg", ".jpeg", ".webp")
_PAGES: Final = (".html", ".htm")
_INDEXES: Final = (".parquet",)
_MANY: Final = 5_000
_TILE: Final = 64
_LARGEST_TILE: Final = 160
_WIDTH: Final = 1600  # of a map that has few images


def map(
    out: Annotated[
        Path, typer.Argument(help="What to make: a .png (or .jpg, .webp), .html or .parquet.")
    ],
    index_path: IndexOption = None,
    k: ClustersOption = None,
    names: NamesOption = None,
    where: WhereOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another map.")] = 0,
    model: IndexModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Draw an index as a map: images that look alike lie near each other.

    A .png has the images themselves, side by side, with the names of clusters where --names gives
    words. An .html is one page to open from disk: zoom, point at an image, click to open its file;
    it needs no network and holds small copies of the images. A .parquet has the index's columns
    and x, y, cluster, cluster_name and cluster_score, as embedding-atlas opens them. Of indexes of
    more than 100,000 images that many are placed. Needs the extra `map`.

    Examples:
        pe map map.png --names everyday
        pe map map.html --where "width > 800"
        pe map map.parquet && embedding-atlas map.parquet --x x --y y
    """
    suffix = out.suffix.lower()
    if suffix not in (*_IMAGES, *_PAGES, *_INDEXES):
        raise typer.BadParameter(f"{out}: the name has to end in .png, .html or .parquet")
    check_file(out)
    from perception_encoder.analysis.map_layout import map_index, require_projection
    from perception_encoder.index import Index

    require_projection()
    index = Index.open(find_index(index_path))
    named = named_clusters(
        index, num_clusters=k, names=names, where=where, model=model, device=device
    )
    if len(named.found.images) > _MANY:
        say(f"placing {len(named.found.images)} images; a hundred thousand take minutes")
    placed = map_index(index, named.found.images, where=named.where, seed=seed)
    if not len(placed.numbers):
        say("there are no images to place")
        raise typer.Exit(1)
    if suffix in _INDEXES:
        _write_parquet(out, index, named, placed)
    elif suffix in _IMAGES:
        _draw(out, named, placed)
    else:
        _write_page(out, index, named, placed)
    say_what_was_found(named)
    finish(named)


def _draw(out: Path, named: NamedClusters, placed: "IndexMap") -> None:
    import numpy as np

    from perception_encoder.analysis.map_image import Caption, draw_map, grid_of

    grid = grid_of(placed.places)
    labels = named.found.labels[placed.numbers]
    captions = [
        Caption(name.text, np.flatnonzero(labels == place))
        for place, name in enumerate(named.names)
    ]
    images = [image_of(row) for row in named.found.rows(placed.numbers)]
    tile = min(_LARGEST_TILE, max(_TILE, _WIDTH // max(grid.columns, grid.rows)))
    num_gone = draw_map(images, grid, captions, out, tile=tile)
    said = f"{out}: {len(grid.shown)} of {len(named.found.images)} images"
    if len(grid.shown) < len(placed.numbers):
        said += " from all parts of the map; an .html shows all"
    say(said)
    _say_gone(num_gone)


def _write_page(out: Path, index: "Index", named: NamedClusters, placed: "IndexMap") -> None:
    from perception_encoder.analysis.map_image import grid_of
    from perception_encoder.analysis.map_page import MapGroup, MapPage, write_page

    found = named.found
    rows = found.rows(placed.numbers)
    groups = [
        MapGroup(named.title(place), cluster.size) for place, cluster in enumerate(found.clusters)
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
        is_named=bool(named.names),
        cell=grid.cell if is_grid else 0,
    )
    num_gone = write_page(page, [image_of(row) for row in rows], out)
    megabytes = out.stat().st_size / 1e6
    say(f"{out}: {len(rows)} of {len(found.images)} images, {megabytes:.1f} MB")
    _say_gone(num_gone)


def _write_parquet(out: Path, index: "Index", named: NamedClusters, placed: "IndexMap") -> None:
    import numpy as np
    import pyarrow as pa

    from perception_encoder.analysis.cluster_names import write_labeled

    numbers = named.found.images.numbers
    places = np.full((len(numbers), 2), np.nan, np.float32)
    places[placed.numbers] = placed.places
    x, y = places[numbers].T
    columns = {
        "x": pa.array(x, pa.float32(), from_pandas=True),  # null where it has no place
        "y": pa.array(y, pa.float32(), from_pandas=True),
        **cluster_columns(named),
    }
    write_labeled(index, named.where, columns, out)
    say(f"{out}: {len(placed.numbers)} of {len(numbers)} images have a place")


def _say_gone(num_gone: int) -> None:
    if num_gone:
        say(f"{num_gone} could not be read and are gray; -v before the command says why")
