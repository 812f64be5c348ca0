"""`pe indexes`: list, describe, export, import and remove indexes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception_encoder import settings
from perception_encoder.cli.command import Command, CommandGroup, keep_examples
from perception_encoder.cli.options import (
    DeviceOption,
    IndexOption,
    JsonOption,
    RowFlags,
    find_index,
    open_model,
    with_flags,
)
from perception_encoder.cli.output import (
    check_text_name,
    format_images,
    say,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perception_encoder.index.optimize import IndexDescription

app = typer.Typer(
    name="indexes",
    cls=CommandGroup,
    help="List, describe, export, import and remove indexes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list", cls=Command)
@keep_examples
def list_(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders that hold indexes.  [default: this folder and your data folder]",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the indexes in some folders: path, images, model and size.

    Example:
        pe indexes list ~/indexes
    """
    found = list(_iter_indexes(folders or [Path(), settings.data_folder()]))
    if as_json:
        for index in found:
            write_json(_to_record(index))
    elif found:
        write_table(
            ["index", "images", "model", "MB"],
            [
                [
                    index.path,
                    f"{index.num_rows:,}",
                    index.identity.model_id,
                    f"{((index.num_bytes or 0) + (index.searcher_bytes or 0)) / 1e6:,.1f}",
                ]
                for index in found
            ],
        )
    else:
        say("no indexes found; make one: pe index FOLDER")


@app.command(cls=Command)
@keep_examples
def info(index_path: IndexOption = None, as_json: JsonOption = False) -> None:
    """Show an index's model, size, versions and columns.

    Example:
        pe indexes info --index images.lance --json
    """
    from perception_encoder.index.model_change import find_staged
    from perception_encoder.index.optimize import describe_index

    index = describe_index(find_index(index_path))
    record, staged = _to_record(index), find_staged(index.path)
    if staged is not None:  # `pe index --reembed` is not finished
        record["reembedding"] = {"model": staged.identity.model_id, "rows": staged.count()}
    if as_json:
        write_json(record)
        return
    del record["columns"]
    if staged is not None:
        record["reembedding"] = f"{staged.identity.model_id}, {staged.count():,} rows"
    rows = [[name, "-" if value is None else str(value)] for name, value in record.items()]
    write_table(["what", "value"], rows)
    write_line("")
    columns = [[c.name, c.type, "metadata" if c.is_metadata else ""] for c in index.columns]
    write_table(["column", "type", ""], columns)


@app.command("export", cls=Command)
@keep_examples
@with_flags
def export_(
    out: Annotated[Path, typer.Argument(help="A new folder; for parquet, a new file.")],
    layout: Annotated[
        Literal["clip-retrieval", "parquet", "npy", "faiss"],
        typer.Option(
            "--format",
            help="clip-retrieval: img_emb/*.npy and metadata/*.parquet. parquet: one file, for "
            "embedding-atlas and DuckDB. npy, faiss: embeddings and rows.jsonl.",
        ),
    ],
    index_path: IndexOption = None,
    *,
    rows: RowFlags,
    part_rows: Annotated[
        int, typer.Option(min=1, help="Rows in one part of clip-retrieval's folders.")
    ] = 1_000_000,
) -> None:
    """Write the embeddings and rows of an index for other programs.

    The files name the model of the embeddings. They appear once all is written, and nothing is
    overwritten.

    Examples:
        pe indexes export images.parquet --format parquet
        pe indexes export laion --format clip-retrieval --where "width > 800"
    """
    from tqdm import tqdm

    from perception_encoder.index import Index
    from perception_encoder.index.exchange import export_index

    check_text_name(str(out))
    index = Index.open(find_index(index_path))
    where = rows.condition(index)
    with tqdm(total=index.count(), unit="row", disable=None) as bar:
        num_rows = export_index(
            index, out, layout, where=where, part_rows=part_rows, progress=bar.update
        )
    say(f"{out}: {num_rows} embeddings of {index.identity.model_id}")


@app.command("import", cls=Command)
@keep_examples
def import_(
    source: Annotated[
        Path, typer.Argument(help="Files of `pe indexes export`, clip-retrieval or others.")
    ],
    index_path: IndexOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model of the embeddings, if no file names it."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Add the embeddings in files to an index, without embedding anything.

    Reads the formats of `pe indexes export`. Embeddings are normalized to unit length. A row
    replaces the one of the same image.

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
        say(f"{done.num_normalized} embeddings were normalized to unit length")
    for name, count in done.left_out.items():
        say(f"{name}: {count} values do not fit the index's column and were left out")
    if incoming.dropped:
        say(f"columns that an index cannot hold were left out: {', '.join(incoming.dropped)}")


@app.command(cls=Command)
@keep_examples
def remove(
    path: Annotated[Path, typer.Argument(help="The index: a local folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an index. The images that it was made from stay.

    Example:
        pe indexes remove old.lance
    """
    from perception_encoder.index.optimize import describe_index
    from perception_encoder.index.storage import write_lock

    index = describe_index(check_text_name(str(path)))
    described = f"{path}: {format_images(index.num_rows)} embedded by {index.identity.model_id}"
    if not yes and not typer.confirm(f"{described}. Delete this index?", err=True):
        raise typer.Exit(1)
    with write_lock(str(path)):  # fails while another process writes
        shutil.rmtree(path)
    say(f"{described}: deleted")


def _iter_indexes(folders: list[Path]) -> Iterator[IndexDescription]:
    from perception_encoder.errors import ImageIndexError
    from perception_encoder.index.optimize import describe_index

    paths = {path.resolve(): path for folder in folders for path in sorted(folder.glob("*.lance"))}
    for path in paths.values():
        try:
            yield describe_index(str(path))
        except ImageIndexError as err:  # another program's Lance dataset, or a damaged index
            say(f"left out: {err}")


def _to_record(index: IndexDescription) -> dict[str, Any]:
    return {
        "path": index.path,
        "rows": index.num_rows,
        "tiles": index.tiles,
        "tile_rows": index.num_tiles,
        "model": index.identity.model_id,
        "fingerprint": index.identity.fingerprint,
        "preprocess": index.identity.preprocess,
        "embed_dim": index.identity.embed_dim,
        "vector_dtype": index.vector_dtype,
        "made_by": index.made_by,
        "bytes": index.num_bytes,
        "search": index.search,
        "searcher_bytes": index.searcher_bytes,
        "recall": index.recall,
        "version": index.version,
        "versions_kept": index.num_versions,
        "reads_metadata": index.reads_metadata,
        "fragments": index.num_fragments,
        "columns": [
            {"name": column.name, "type": column.type, "metadata": column.is_metadata}
            for column in index.columns
        ],
    }
