"""`pe cluster`: groups of similar images in an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from perception_encoder.cli.options import (
    DeviceOption,
    IndexModelOption,
    IndexOption,
    JsonOption,
    RowFlags,
    find_index,
    warn_of_photo_index,
    with_flags,
)
from perception_encoder.cli.output import (
    check_file,
    check_sheet,
    format_images,
    say,
    write_json,
    write_table,
)
from perception_encoder.cli.text_files import read_text, split_lines

if TYPE_CHECKING:
    from perception_encoder.analysis.clusters import NamedClusters
    from perception_encoder.analysis.ranked_images import Numbers
    from perception_encoder.index import Index, Row

ClustersOption = Annotated[
    int | None,
    typer.Option(
        "-k",
        min=1,
        help="Number of clusters.  [default: the smallest that separates the images about as "
        "well as the best]",
        show_default=False,
    ),
]
NamesOption = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS",
        help="Name each cluster by the word that distinguishes it: from a file, one a line; from "
        "the texts in a column, `column:caption`; or from 350 common words, `everyday`.",
    ),
]
_EVERYDAY: Final = "everyday"
_COLUMN: Final = "column:"
_MAX_DAMAGED: Final = 10  # of those reported one by one
_SHEET_IMAGES: Final = 10
_SHEET_CLUSTERS: Final = 100


@with_flags
def cluster(  # noqa: PLR0913  one parameter for each option
    index_path: IndexOption = None,
    k: ClustersOption = None,
    names: NamesOption = None,
    *,
    rows: RowFlags,
    as_json: JsonOption = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the central images of each cluster: .png, .jpg, .webp or .html."),
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write the cluster, name and score of every image.")
    ] = None,
    model: IndexModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Group the images of an index by what they show.

    Each image belongs to the cluster with the nearest center. Tightness is the mean cosine with
    the center. The largest cluster comes first, and in it the most central image; the last images
    of a cluster fit it least. With --json, each line is a cluster with all its images. The same
    index gives the same clusters.

    Examples:
        pe cluster --sheet clusters.png
        pe cluster -k 20 --names everyday
        pe cluster --json | jq -r 'select(.cluster == 3).images[].uri'
        pe cluster --where "width > 800" --parquet clusters.parquet
    """
    from perception_encoder.index import Index

    check_sheet(sheet)
    check_file(parquet)
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
    if as_json:
        _write_json(named)
    elif named.found.clusters:
        _write_table(named)
    if sheet is not None and named.found.clusters:
        _draw_sheet(sheet, named, index)
    if parquet is not None:
        from perception_encoder.analysis.cluster_names import write_rows_with

        write_rows_with(index, named.where, named.columns(), parquet)
        say(f"{parquet}: {format_images(len(named.found.images))}")
    report_clusters(named)
    exit_if_damaged(named)


def find_named_clusters(
    index: Index,
    *,
    num_clusters: int | None,
    names: str | None,
    where: str | None,
    model: str | None,
    device: str,
) -> NamedClusters:
    """Find the clusters of an index; name them if --names gives words."""
    from perception_encoder.analysis.clusters import cluster_index
    from perception_encoder.analysis.ranked_images import DAMAGE_REASON
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.search.query_model import open_index_model

    words = [] if names is None else _read_words(names, index, where)  # reports a wrong name first
    with show_steps(f"grouping up to {format_images(index.count())}") as report:
        named = cluster_index(
            index,
            lambda: open_index_model(index, model, ComputeOptions(device=device)),
            num_clusters=num_clusters,
            words=words,
            where=where,
            report=report,
        )
    for row in named.damaged[:_MAX_DAMAGED]:
        say(f"pe: {row.name}: {DAMAGE_REASON}")
    return named


def report_clusters(named: NamedClusters) -> None:
    """Report the number of clusters and, if it was chosen here, how well they are separated."""
    found = named.found
    number = len(found.clusters)
    if not number:
        say("there are no images to group")
        return
    clusters = "1 cluster" if number == 1 else f"{number} clusters"
    text = f"{clusters} of {format_images(len(found.images))}"
    if found.silhouette is not None:
        separation = _describe_separation(found.silhouette)
        text += f"; {separation} (silhouette {found.silhouette:.2f})"
        text += "; -k N makes as many as you want"
    say(text)


def exit_if_damaged(named: NamedClusters) -> None:
    """Report images that were left out as their embeddings are damaged.

    Raises:
        typer.Exit: there are some; the exit code is 1.
    """
    if named.damaged:
        say(f"{format_images(len(named.damaged))} left out, as their vectors are damaged")
        raise typer.Exit(1)


def _read_words(names: str, index: Index, where: str | None) -> list[str]:
    path = Path(names).expanduser()
    if (names == _EVERYDAY or names.startswith(_COLUMN)) and not path.exists():
        from perception_encoder.analysis.cluster_names import read_words

        words = list(read_words(index, names, where))
    else:
        lines = (line.strip() for line in split_lines(read_text(path)))
        words = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not words:
        raise typer.BadParameter(f"--names {names}: there are no words in it")
    return words


def _describe_separation(silhouette: float) -> str:
    """Describe a silhouette by the bounds of Kaufman and Rousseeuw (1990)."""
    from perception_encoder.analysis.cluster_centers import APART

    if silhouette > 0.5:
        return "well separated"
    return "separated" if silhouette > APART else "overlapping"


def _write_json(named: NamedClusters) -> None:
    for position, cluster in enumerate(named.found.clusters):
        record: dict[str, Any] = {"cluster": position + 1}
        if named.names:
            name = named.names[position]
            words = dict(zip(name.words, name.scores, strict=True))
            record |= {"name": name.text, "words": words}
        record |= {"size": cluster.size, "tightness": round(cluster.tightness, 4)}
        write_json(record | {"images": _to_records(named, cluster.members)})


def _to_records(named: NamedClusters, members: Numbers) -> list[dict[str, Any]]:
    fields = named.found.images.columns.select(["uri", "member"]).take(members)
    scores = named.found.scores[members].tolist()
    return [
        {**fact, "score": round(score, 4)}
        for fact, score in zip(fields.to_pylist(), scores, strict=True)
    ]


def _write_table(named: NamedClusters) -> None:
    rows = []
    for position, cluster in enumerate(named.found.clusters):
        name = [named.title(position)] if named.names else []
        (central,) = named.found.rows(cluster.members[:1])
        numbers = [str(cluster.size), f"{cluster.tightness:.3f}"]
        rows.append([str(position + 1), *name, *numbers, central.name])
    title = ["name"] if named.names else []
    write_table(["cluster", *title, "images", "tightness", "most central"], rows)


def _draw_sheet(path: Path, named: NamedClusters, index: Index) -> None:
    from perception_encoder.analysis.clusters import find_typical_members
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow
    from perception_encoder.analysis.drawing import image_source_of, short_name_of
    from perception_encoder.cli.progress import draw_sheet, show_steps

    found = named.found

    def to_hit(row: Row, score: float) -> SheetHit:
        return SheetHit(image_source_of(row), score, short_name_of(row))

    rows = []
    with show_steps("choosing images for the sheet"):
        typical = find_typical_members(index, found, _SHEET_IMAGES, where=named.where)
    for position, central in enumerate(typical[:_SHEET_CLUSTERS]):
        size = format_images(found.clusters[position].size)
        hits = map(to_hit, found.rows(central), found.scores[central].tolist())
        rows.append(SheetRow(list(hits), text=f"{named.title(position)}: {size}"))
    is_all = len(found.clusters) <= _SHEET_CLUSTERS
    draw_sheet(path, rows, f"the {'' if is_all else f'{_SHEET_CLUSTERS} largest '}clusters")
