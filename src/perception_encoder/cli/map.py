"""`pe map`: an index's images in the plane, alike ones near each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.cluster_options import (
    ClustersOption,
    NamesOption,
    finish,
    named_clusters,
    say_what_was_found,
)
from perception_encoder.cli.model_choice import warn_of_photo_index
from perception_encoder.cli.options import (
    DeviceOption,
    IndexModelOption,
    IndexOption,
    WhereOption,
    find_index,
)
from perception_encoder.cli.output import check_file, images, say

if TYPE_CHECKING:
    from perception_encoder.analysis.index_map import WrittenMap


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
    """Draw an index as a map that places similar images near each other.

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
    from perception_encoder.analysis.index_map import (
        MAP_SUFFIXES,
        map_index,
        require_projection,
        write_map,
    )
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index

    if out.suffix.lower() not in MAP_SUFFIXES:
        raise typer.BadParameter(f"{out}: the name has to end in .png, .html or .parquet")
    check_file(out)

    require_projection()
    index = Index.open(find_index(index_path))
    warn_of_photo_index(index)
    named = named_clusters(
        index, num_clusters=k, names=names, where=where, model=model, device=device
    )
    with show_steps(f"placing {images(len(named.found.images))}"):
        placed = map_index(index, named.found.images, where=named.where, seed=seed)
    if not len(placed.numbers):
        say("there are no images to place")
        raise typer.Exit(1)
    with show_steps(f"drawing {out}"):
        written = write_map(out, index, named, placed)
    _say_what_is_shown(out, written)
    say_what_was_found(named)
    finish(named)


def _say_what_is_shown(out: Path, shown: "WrittenMap") -> None:
    from perception_encoder.analysis.index_map import IMAGE_SUFFIXES, PAGE_SUFFIXES

    said = f"{out}: {shown.num_shown:,} of {images(shown.num_images)}"
    if out.suffix.lower() in PAGE_SUFFIXES:
        said += f", {out.stat().st_size / 1e6:.1f} MB"
    elif shown.num_shown < shown.num_images and out.suffix.lower() in IMAGE_SUFFIXES:
        said += " from all parts of the map; an .html shows all"
    say(said)
    if shown.num_unreadable:
        say(
            f"{images(shown.num_unreadable)} could not be read and are gray; "
            "-v before the command says why"
        )
