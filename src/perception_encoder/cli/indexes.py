"""`pe table`: what a table is, and its way into other programs' files and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception_encoder.cli.command import Command
from perception_encoder.cli.options import (
    DeviceOption,
    JsonOption,
    TableOption,
    WhereOption,
    open_model,
    table_path,
)
from perception_encoder.cli.output import (
    check_text_name,
    examples_kept,
    say,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from perception_encoder.index.optimize import TableDescription

LayoutChoice = Literal["clip-retrieval", "parquet", "npy", "faiss"]

app = typer.Typer(
    help="Look at a table, write it in other programs' formats, and read these.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command)
@examples_kept
def info(db: TableOption = None, as_json: JsonOption = False) -> None:
    """Show a table's model, size, versions and columns.

    Example:
        pe table info --db images.lance --json
    """
    from perception_encoder.index.optimize import describe_table

    table = describe_table(table_path(db))
    if as_json:
        write_json(_facts(table))
        return
    facts = _facts(table)
    del facts["columns"]
    write_table(["what", "value"], [[name, _shown(value)] for name, value in facts.items()])
    write_line("")
    columns = [[c.name, c.type, "metadata" if c.is_metadata else ""] for c in table.columns]
    write_table(["column", "type", ""], columns)


@app.command("export", cls=Command)
@examples_kept
def export_(
    out: Annotated[Path, typer.Argument(help="A new folder; for parquet, a new file.")],
    layout: Annotated[
        LayoutChoice,
        typer.Option(
            "--format",
            help="clip-retrieval: img_emb/*.npy and metadata/*.parquet. parquet: one file, for "
            "embedding-atlas and DuckDB. npy, faiss: vectors and rows.jsonl.",
        ),
    ],
    db: TableOption = None,
    where: WhereOption = None,
    part_rows: Annotated[
        int, typer.Option(min=1, help="Rows of one part of clip-retrieval's folders.")
    ] = 1_000_000,
) -> None:
    """Write a table's vectors and rows for other programs.

    The files say which model made the vectors. They appear when all is written; what is there
    already is not overwritten.

    Examples:
        pe table export images.parquet --format parquet
        pe table export laion --format clip-retrieval --where "width > 800"
    """
    from tqdm import tqdm

    from perception_encoder.index import Index
    from perception_encoder.index.exchange import export_table

    check_text_name(str(out))
    index = Index.open(table_path(db))
    with tqdm(total=index.count(), unit="row", disable=None) as bar:
        num_rows = export_table(
            index, out, layout, where=where, part_rows=part_rows, progress=bar.update
        )
    say(f"{out}: {num_rows} vectors of {index.identity.model_id}")


@app.command("import", cls=Command)
@examples_kept
def import_(
    source: Annotated[
        Path, typer.Argument(help="What `pe table export`, clip-retrieval or others wrote.")
    ],
    db: TableOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Whose vectors they are, where the files do not say."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Add the vectors of files to a table, without embedding anything.

    Takes the formats of `pe table export`. Vectors that are not of unit length are brought to it;
    an image that is in the table already gets the new row.

    Examples:
        pe table import laion --db laion.lance --model PE-Core-B16-224
        pe table import images.parquet --db copy.lance
    """
    from tqdm import tqdm

    from perception_encoder.index.exchange import import_table, open_source

    incoming = open_source(source)
    stated = incoming.provenance
    identity = None
    if model is not None:
        preprocess = stated.identity.preprocess if stated else None
        with open_model(model, device=device, preprocess=preprocess) as loaded:
            identity = loaded.identity
    path = table_path(db)
    with tqdm(total=incoming.num_rows, unit="row", disable=None) as bar:
        done = import_table(incoming, path, identity=identity, progress=bar.update)
    say(f"{path}: {done.num_added} rows added, {done.num_replaced} replaced ({incoming.layout})")
    if done.num_normalized:
        say(f"{done.num_normalized} vectors were not of unit length and have been brought to it")
    for name, count in done.left_out.items():
        say(f"{name}: {count} values do not fit the table's column and were left out")
    if incoming.dropped:
        say(f"columns that a table cannot hold were left out: {', '.join(incoming.dropped)}")


def _facts(table: "TableDescription") -> dict[str, Any]:
    return {
        "path": table.path,
        "rows": table.num_rows,
        "model": table.identity.model_id,
        "fingerprint": table.identity.fingerprint,
        "preprocess": table.identity.preprocess,
        "embed_dim": table.identity.embed_dim,
        "vector_dtype": table.vector_dtype,
        "made_by": table.made_by,
        "bytes": table.num_bytes,
        "searcher_bytes": table.searcher_bytes,
        "version": table.version,
        "versions_kept": table.num_versions,
        "fragments": table.num_fragments,
        "columns": [
            {"name": column.name, "type": column.type, "metadata": column.is_metadata}
            for column in table.columns
        ],
    }


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
