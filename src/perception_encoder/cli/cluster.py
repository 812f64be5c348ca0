"""`pe cluster`: groups of an index's images that look alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    JsonOption,
    WhereOption,
    find_index,
)
from perception_encoder.cli.output import check_file, check_sheet, say, write_json, write_table

if TYPE_CHECKING:
    from perception_encoder.analysis.clusters import NamedClusters
    from perception_encoder.analysis.ranked_images import Numbers
    from perception_encoder.index import Index, Row

_SHEET_IMAGES = 10
_SHEET_CLUSTERS = 100


def cluster(  # noqa: PLR0913  one parameter for each option
    index_path: IndexOption = None,
    k: ClustersOption = None,
    names: NamesOption = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the clusters as one image, a row of central images for each."),
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write every image's cluster, name and score.")
    ] = None,
    model: IndexModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Group the images of an index by what they show.

    Every image is in the cluster whose center is nearest; tightness is the mean cosine with it.
    The largest cluster comes first, and in it the most central image; the last ones of a cluster
    are those that fit it least. With --json a cluster is a line, with all of its images. The
    same index gives the same clusters.

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
    named = named_clusters(
        index, num_clusters=k, names=names, where=where, model=model, device=device
    )
    if as_json:
        _write_json(named)
    elif named.found.clusters:
        _write_table(named)
    if sheet is not None and named.found.clusters:
        _draw(sheet, named, index)
    if parquet is not None:
        from perception_encoder.analysis.cluster_names import write_labeled

        write_labeled(index, named.where, named.columns(), parquet)
        say(f"{parquet}: {len(named.found.images)} images")
    say_what_was_found(named)
    finish(named)


def _write_json(named: "NamedClusters") -> None:
    for place, cluster in enumerate(named.found.clusters):
        record: dict[str, Any] = {"cluster": place + 1}
        if named.names:
            name = named.names[place]
            words = dict(zip(name.words, name.scores, strict=True))
            record |= {"name": name.text, "words": words}
        record |= {"size": cluster.size, "tightness": round(cluster.tightness, 4)}
        write_json(record | {"images": _images(named, cluster.members)})


def _images(named: "NamedClusters", members: "Numbers") -> list[dict[str, Any]]:
    facts = named.found.images.facts.select(["uri", "member"]).take(members)
    scores = named.found.scores[members].tolist()
    return [
        {**fact, "score": round(score, 4)}
        for fact, score in zip(facts.to_pylist(), scores, strict=True)
    ]


def _write_table(named: "NamedClusters") -> None:
    lines = []
    for place, cluster in enumerate(named.found.clusters):
        name = [named.title(place)] if named.names else []
        (central,) = named.found.rows(cluster.members[:1])
        numbers = [str(cluster.size), f"{cluster.tightness:.3f}"]
        lines.append([str(place + 1), *name, *numbers, central.name])
    title = ["name"] if named.names else []
    write_table(["cluster", *title, "images", "tightness", "most central"], lines)


def _draw(path: Path, named: "NamedClusters", index: "Index") -> None:
    from perception_encoder.analysis.clusters import typical_members
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow
    from perception_encoder.analysis.thumbnails import short_name, stored_image
    from perception_encoder.cli.progress import draw_sheet, show_steps

    found = named.found

    def drawn(row: "Row", score: float) -> SheetHit:
        return SheetHit(stored_image(row), score, short_name(row))

    rows = []
    with show_steps("choosing images for the sheet"):
        typical = typical_members(index, found, _SHEET_IMAGES, where=named.where)
    for place, central in enumerate(typical[:_SHEET_CLUSTERS]):
        cluster = found.clusters[place]
        size = "1 image" if cluster.size == 1 else f"{cluster.size} images"
        hits = map(drawn, found.rows(central), found.scores[central].tolist())
        rows.append(SheetRow(list(hits), text=f"{named.title(place)}: {size}"))
    is_all = len(found.clusters) <= _SHEET_CLUSTERS
    draw_sheet(path, rows, f"the {'' if is_all else f'{_SHEET_CLUSTERS} largest '}clusters")
