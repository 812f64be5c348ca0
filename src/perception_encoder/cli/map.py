"""`pe map`: the images of an index in the plane, similar ones near each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.cluster import (
    ClustersOption,
    NamesOption,
    exit_if_damaged,
    find_named_clusters,
    report_clusters,
)
from perception_encoder.cli.options import (
    DeviceOption,
    IndexModelOption,
    IndexOption,
    RowFlags,
    find_index,
    warn_of_photo_index,
    with_flags,
)
from perception_encoder.cli.output import check_file, format_images, say

if TYPE_CHECKING:
    from perception_encoder.analysis.index_map import WrittenMap


@with_flags
def map(
    out: Annotated[
        Path, typer.Argument(help="File to write: .png (or .jpg, .webp), .html or .parquet.")
    ],
    index_path: IndexOption = None,
    k: ClustersOption = None,
    names: NamesOption = None,
    *,
    rows: RowFlags,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another map.")] = 0,
    model: IndexModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Draw an index as a map that places similar images near each other.

    A .png shows the images side by side, and the names of clusters if --names gives words. An
    .html is one page to open from disk, without network: zoom, point at an image, click to open
    its file. A .parquet has the columns of the index and x, y, cluster, cluster_name and
    cluster_score, as embedding-atlas opens them. At most 100,000 images are placed. Needs the
    extra `map`.

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
        raise typer.BadParameter(f"{out}: the name must end in .png, .html or .parquet")
    check_file(out)
    require_projection()
    index = Index.open(find_index(index_path))
    warn_of_photo_index(index)
    named = find_named_clusters(
        index,
        num_clusters=k,
        names=names,
        where=rows.condition(index),
        model=model,
        device=device,
    )
    work = f"placing {format_images(len(named.found.images))}"
    with show_steps(work) as report:

        def show(share: float) -> None:
            report(f"{work}, {share:.0%}", 0, 0)

        placed = map_index(index, named.found.images, where=named.where, seed=seed, progress=show)
    if not len(placed.numbers):
        say("there are no images to place")
        raise typer.Exit(1)
    with show_steps(f"drawing {out}"):
        written = write_map(out, index, named, placed)
    _report(out, written)
    report_clusters(named)
    exit_if_damaged(named)


def _report(out: Path, written: WrittenMap) -> None:
    from perception_encoder.analysis.index_map import IMAGE_SUFFIXES, PAGE_SUFFIXES

    text = f"{out}: {written.num_shown:,} of {format_images(written.num_images)}"
    if out.suffix.lower() in PAGE_SUFFIXES:
        text += f", {out.stat().st_size / 1e6:.1f} MB"
    elif written.num_shown < written.num_images and out.suffix.lower() in IMAGE_SUFFIXES:
        text += " from all parts of the map; an .html shows all"
    say(text)
    if written.num_unreadable:
        say(
            f"{format_images(written.num_unreadable)} could not be read and are gray; "
            "-v before the command reports why"
        )
