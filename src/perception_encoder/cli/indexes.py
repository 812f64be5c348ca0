"""`pe indexes`: what an index is, and its way into other programs' files and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception_encoder.cli.command import Command, CommandGroup, keep_examples
from perception_encoder.cli.options import (
    DeviceOption,
    IndexOption,
    JsonOption,
    WhereOption,
    find_index,
    open_model,
)
from perception_encoder.cli.output import (
    check_text_name,
    say,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from perception_encoder.index.optimize import IndexDescription

LayoutChoice = Literal["clip-retrieval", "parquet", "npy", "faiss"]

app = typer.Typer(
    name="indexes",
    cls=CommandGroup,
    help="List, describe, export, import and remove indexes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command)
@keep_examples
def info(index_path: IndexOption = None, as_json: JsonOption = False) -> None:
    """Show an index's model, size, versions and columns.

    Example:
        pe indexes info --index images.lance --json
    """
    from perception_encoder.index.optimize import describe_index

    index = describe_index(find_index(index_path))
    if as_json:
        write_json(_facts(index))
        return
    facts = _facts(index)
    del facts["columns"]
    write_table(["what", "value"], [[name, _shown(value)] for name, value in facts.items()])
    write_line("")
    columns = [[c.name, c.type, "metadata" if c.is_metadata else ""] for c in index.columns]
    write_table(["column", "type", ""], columns)


@app.command("export", cls=Command)
@keep_examples
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
    index_path: IndexOption = None,
    where: WhereOption = None,
    part_rows: Annotated[
        int, typer.Option(min=1, help="Rows of one part of clip-retrieval's folders.")
    ] = 1_000_000,
) -> None:
    """Write an index's vectors and rows for other programs.

    The files say which model made the vectors. They appear when all is written; what is there
    already is not overwritten.

    Examples:
        pe indexes export images.parquet --format parquet
        pe indexes export laion --format clip-retrieval --where "width > 800"
    """
    from tqdm import tqdm

    from perception_encoder.index import Index
    from perception_encoder.index.exchange import export_index

    check_text_name(str(out))
    index = Index.open(find_index(index_path))
    with tqdm(total=index.count(), unit="row", disable=None) as bar:
        num_rows = export_index(
            index, out, layout, where=where, part_rows=part_rows, progress=bar.update
        )
    say(f"{out}: {num_rows} vectors of {index.identity.model_id}")


@app.command("import", cls=Command)
@keep_examples
def import_(
    source: Annotated[
        Path, typer.Argument(help="What `pe indexes export`, clip-retrieval or others wrote.")
    ],
    index_path: IndexOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Whose vectors they are, where the files do not say."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Add the vectors of files to an index, without embedding anything.

    Takes the formats of `pe indexes export`. Vectors that are not of unit length are brought to it;
    an image that is in the index already gets the new row.

    Examples:
        pe indexes import laion --index laion.lance --model PE-Core-B16-224
        pe indexes import images.parquet --index copy.lance
    """
    from tqdm import tqdm

    from perception_encoder.index.exchange import import_index, open_source

    incoming = open_source(source)
    stated = incoming.provenance
    identity = None
    if model is not None:
        preprocess = stated.identity.preprocess if stated else None
        with open_model(model, device=device, preprocess=preprocess) as loaded:
            identity = loaded.identity
    path = find_index(index_path)
    with tqdm(total=incoming.num_rows, unit="row", disable=None) as bar:
        done = import_index(incoming, path, identity=identity, progress=bar.update)
    say(f"{path}: {done.num_added} rows added, {done.num_replaced} replaced ({incoming.layout})")
    if done.num_normalized:
        say(f"{done.num_normalized} vectors were not of unit length and have been brought to it")
    for name, count in done.left_out.items():
        say(f"{name}: {count} values do not fit the index's column and were left out")
    if incoming.dropped:
        say(f"columns that an index cannot hold were left out: {', '.join(incoming.dropped)}")


def _facts(index: "IndexDescription") -> dict[str, Any]:
    return {
        "path": index.path,
        "rows": index.num_rows,
        "model": index.identity.model_id,
        "fingerprint": index.identity.fingerprint,
        "preprocess": index.identity.preprocess,
        "embed_dim": index.identity.embed_dim,
        "vector_dtype": index.vector_dtype,
        "made_by": index.made_by,
        "bytes": index.num_bytes,
        "searcher_bytes": index.searcher_bytes,
        "version": index.version,
        "versions_kept": index.num_versions,
        "fragments": index.num_fragments,
        "columns": [
            {"name": column.name, "type": column.type, "metadata": column.is_metadata}
            for column in index.columns
        ],
    }


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
