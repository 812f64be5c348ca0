"""What `pe cluster` and `pe map` share: how clusters are asked for, found and named."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.output import images, say
from perception_encoder.cli.text_files import read_text, split_lines

if TYPE_CHECKING:
    from perception_encoder.analysis.clusters import NamedClusters
    from perception_encoder.index import Index

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


def named_clusters(
    index: "Index",
    *,
    num_clusters: int | None,
    names: str | None,
    where: str | None,
    model: str | None,
    device: str,
) -> "NamedClusters":
    """Find the clusters of an index, and name them if there are words."""
    from perception_encoder.analysis.clusters import cluster_index
    from perception_encoder.analysis.ranked_images import REASON
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.search.query_model import open_index_model

    # Before the work: a wrong name is reported at once.
    words = [] if names is None else _words(names, index, where)
    with show_steps(f"grouping up to {images(index.count())}"):
        named = cluster_index(
            index,
            lambda: open_index_model(index, model, ComputeOptions(device=device)),
            num_clusters=num_clusters,
            words=words,
            where=where,
        )
    for row in named.damaged[:_SHOWN_DAMAGED]:
        say(f"pe: {row.name}: {REASON}")
    return named


def say_what_was_found(named: "NamedClusters") -> None:
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


def finish(named: "NamedClusters") -> None:
    """Say what was left out, if anything was; the exit code is then 1."""
    if named.damaged:
        say(f"{images(len(named.damaged))} left out, as their vectors are damaged")
        raise typer.Exit(1)


def _words(names: str, index: "Index", where: str | None) -> list[str]:
    path = Path(names).expanduser()
    if names.startswith(_COLUMN) and not path.exists():
        from perception_encoder.analysis.cluster_names import column_words

        words = column_words(index, names.removeprefix(_COLUMN), where=where)
    elif names == _EVERYDAY and not path.exists():
        from perception_encoder.analysis.cluster_names import everyday_words

        words = everyday_words()
    else:
        lines = (line.strip() for line in split_lines(read_text(path)))
        words = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not words:
        raise typer.BadParameter(f"--names {names}: there are no words in it")
    return words


def _distinct(silhouette: float) -> str:
    """Say a silhouette in words, by the bounds of Kaufman and Rousseeuw (1990)."""
    from perception_encoder.analysis.spherical_kmeans import APART

    if silhouette > 0.5:
        return "well apart"
    return "apart" if silhouette > APART else "running into each other"
