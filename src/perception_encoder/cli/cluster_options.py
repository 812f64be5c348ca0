"""What `pe cluster` and `pe map` share: how clusters are asked for, found and named."""

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.output import images, say
from perception_encoder.cli.text_files import lines_of, read_text

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import pyarrow as pa

    from perception_encoder.analysis.cluster_names import ClusterName
    from perception_encoder.analysis.clusters import Clusters
    from perception_encoder.analysis.thumbnails import SheetImage
    from perception_encoder.index import Index, Row

ClustersOption = Annotated[
    int | None,
    typer.Option(
        "-k",
        min=1,
        help="So many clusters. [default: the fewest that are set apart about as well as the best]",
        show_default=False,
    ),
]
NamesOption = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS",
        help="Call each cluster by the word that sets it apart: of a file, one a line; of a "
        "column's texts, `column:caption`; or of about 350 that come along, `everyday`.",
    ),
]
_EVERYDAY = "everyday"
_SHOWN_DAMAGED = 10
_COLUMN = "column:"


@dataclass(frozen=True)
class NamedClusters:
    """Clusters, and a name for each; no names where no words were given.

    Attributes:
        where: the condition that the clustered rows meet.
        num_left_out: rows that do not take part, as their vectors are damaged.
    """

    found: "Clusters"
    names: "list[ClusterName]"
    where: str | None
    num_left_out: int

    def title(self, place: int) -> str:
        """What to call a cluster where it has to be called something."""
        return self.names[place].text if self.names else f"cluster {place + 1}"


def named_clusters(
    index: "Index",
    *,
    num_clusters: int | None,
    names: str | None,
    where: str | None,
    model: str | None,
    device: str,
) -> NamedClusters:
    """Find the clusters of an index, and name them if there are words."""
    words = (
        [] if names is None else _words(names, index, where)
    )  # before the work: a wrong name shows at once
    from perception_encoder.analysis.clusters import find_clusters
    from perception_encoder.analysis.damaged_vectors import REASON, damaged_rows, without

    damaged = damaged_rows(index, where)
    for row in damaged[:_SHOWN_DAMAGED]:
        say(f"pe: {row.name}: {REASON}")
    where = without(damaged, where)
    found = find_clusters(index, num_clusters=num_clusters, where=where)
    if not words or not found.clusters:
        return NamedClusters(found, [], where, len(damaged))
    from perception_encoder.analysis.cluster_names import name_clusters
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.search.query_model import open_index_model

    with open_index_model(index, model, ComputeOptions(device=device)) as opened:
        vectors = opened.embed_text(words, show_progress=False)
    names_found = name_clusters(found.centers, words, vectors)
    return NamedClusters(found, names_found, where, len(damaged))


def cluster_columns(named: NamedClusters) -> "dict[str, pa.Array]":
    """Return what was found of each row of the index, in its order, as Arrow columns."""
    import pyarrow as pa

    found = named.found
    labels = found.labels[found.images.numbers]
    titles = pa.array([named.title(place) for place in range(len(found.clusters))], pa.string())
    return {
        "cluster": pa.array(labels + 1, pa.int32()),
        "cluster_name": titles.take(pa.array(labels)),
        "cluster_score": pa.array(found.scores[found.images.numbers], pa.float32()),
    }


def say_what_was_found(named: NamedClusters) -> None:
    """Say how many clusters there are and, where their number was chosen, how distinct they are."""
    found = named.found
    count, number = len(found.images), len(found.clusters)
    if not number:
        say("there are no images to group")
        return
    clusters = "1 cluster" if number == 1 else f"{number} clusters"
    said = f"{clusters} of {images(count)}"
    if found.silhouette is not None:
        said += f"; {_distinct(found.silhouette)} (silhouette {found.silhouette:.2f})"
        said += "; -k N makes as many as you want"
    say(said)


def finish(named: NamedClusters) -> None:
    """Say what was left out, if anything was; the exit code is then 1."""
    if named.num_left_out:
        say(f"{images(named.num_left_out)} left out, as their vectors are damaged")
        raise typer.Exit(1)


def image_of(row: "Row") -> "SheetImage":
    """Return what reads a row's image when it is drawn."""
    from perception_encoder.sources import read_image

    return partial(read_image, row.uri, row.member, row.offset)


def file_name(row: "Row") -> str:
    """Return an image's name without its folder and ending."""
    return Path(row.member or row.uri).stem


def _words(names: str, index: "Index", where: str | None) -> list[str]:
    path = Path(names).expanduser()
    if names.startswith(_COLUMN) and not path.exists():
        from perception_encoder.analysis.cluster_names import column_words

        words = column_words(index, names.removeprefix(_COLUMN), where=where)
    elif names == _EVERYDAY and not path.exists():
        words = _lines(files("perception_encoder").joinpath("data", "everyday_words.txt"))
    else:
        words = _lines(path)
    if not words:
        raise typer.BadParameter(f"--names {names}: there are no words in it")
    return words


def _lines(file: "Traversable") -> list[str]:
    lines = (line.strip() for line in lines_of(read_text(file)))
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def _distinct(silhouette: float) -> str:
    """Say a silhouette in words, by the bounds of Kaufman and Rousseeuw (1990)."""
    from perception_encoder.analysis.spherical_clustering import APART

    if silhouette > 0.5:
        return "well apart"
    return "apart" if silhouette > APART else "running into each other"
