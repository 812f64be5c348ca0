"""`pe search` and `pe similar`: find pictures by words, by pictures, or by sums of both."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.options import (
    DeviceOption,
    JsonOption,
    TableOption,
    open_model,
    table_path,
)
from perception_encoder.cli.output import say, write_json, write_line, write_table

if TYPE_CHECKING:
    from perception_encoder.index import Hit
    from perception_encoder.pipeline import Query

TableModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", envvar="PE_MODEL", help="Default: the model of the table."),
]
KOption = Annotated[int, typer.Option("-k", min=1, help="How many hits, at most.")]
ThresholdOption = Annotated[float | None, typer.Option(help="The lowest cosine of a hit.")]
WhereOption = Annotated[
    str | None, typer.Option(help='SQL condition on the table\'s columns: "width > 800".')
]
PathsOption = Annotated[bool, typer.Option("--paths", help="Only the paths.")]
NullOption = Annotated[bool, typer.Option("-0", help="Only the paths, each ended by NUL.")]
SheetOption = Annotated[
    Path | None, typer.Option(help="Draw the query and its hits as one picture.")
]


def search(  # noqa: PLR0913  one parameter for each option
    query: Annotated[list[str], typer.Argument(help="Words, a picture, or a sum of them.")],
    db: TableOption = None,
    k: KOption = 10,
    threshold: ThresholdOption = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    sheet: SheetOption = None,
    model: TableModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the pictures of a table that fit a query, best first.

    Examples:
        pe search "red heart"
        pe search cat.png -k 5 --sheet hits.png
        pe search "2:golden retriever" + pool.jpg - fruit
    """
    hits, read = _search(query, [], db, k, threshold, where, model, device)
    _write(hits, as_json=as_json, paths=paths, null=null)
    if sheet is not None:
        _draw(sheet, read, hits)


def similar(  # noqa: PLR0913  one parameter for each option
    picture: Annotated[Path, typer.Argument(help="A picture file, in the table or not.")],
    db: TableOption = None,
    k: KOption = 10,
    threshold: ThresholdOption = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    sheet: SheetOption = None,
    model: TableModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the pictures of a table that look like one, which is itself left out."""
    if not picture.is_file():
        raise typer.BadParameter(f"{picture}: no such file")
    # A path with a folder in it is read as a picture whatever its name ends in.
    own = os.path.abspath(picture)
    hits, read = _search([own], [own], db, k, threshold, where, model, device)
    _write(hits, as_json=as_json, paths=paths, null=null)
    if sheet is not None:
        _draw(sheet, read, hits)


def _search(
    query: Sequence[str],
    leave_out: Sequence[str],
    db: Path | None,
    k: int,
    threshold: float | None,
    where: str | None,
    model: str | None,
    device: str,
) -> "tuple[list[Hit], Query]":
    from perception_encoder.index import Index
    from perception_encoder.pipeline import read_query, search

    table = Index.open(table_path(db))
    # The table knows its model; only one that was opened from a path has to be named again.
    loaded = open_model(
        model or table.identity.model_id, device=device, preprocess=table.identity.preprocess
    )
    table.check(loaded.identity)
    read = read_query(loaded, query)
    hits = search(table, read, k=k, where=where, threshold=threshold, leave_out=leave_out)
    return hits, read


def _write(hits: "Sequence[Hit]", *, as_json: bool, paths: bool, null: bool) -> None:
    if null or paths:
        for hit in hits:
            write_line(hit.uri, end="\0" if null else "\n")
    elif as_json:
        for hit in hits:
            write_json(
                {
                    "uri": hit.uri,
                    "member": hit.member,
                    "score": round(hit.score, 6),
                    "width": hit.width,
                    "height": hit.height,
                    **({"metadata": dict(hit.metadata)} if hit.metadata else {}),
                }
            )
    elif hits:
        write_table(["score", "picture"], [[f"{hit.score:.4f}", hit.uri] for hit in hits])
    else:
        say("nothing found")


def _draw(path: Path, query: "Query", hits: "Sequence[Hit]") -> None:
    from perception_encoder.analysis import SheetHit, SheetRow, contact_sheet

    found = [SheetHit(hit.uri, hit.score, Path(hit.uri).stem) for hit in hits]
    contact_sheet([SheetRow(found, text=query.text, image=query.image)], path)
    say(f"{path}: the query and its {len(hits)} hits")
