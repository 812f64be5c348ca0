"""`pe embed`: vectors of pictures and texts to a file or to stdout."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendOption,
    BatchSizeOption,
    CompileOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    PreprocessOption,
    open_model,
)
from perception_encoder.cli.output import say, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Format = Literal["jsonl", "npy", "parquet"]


def embed(  # noqa: PLR0913  one parameter for each option
    items: Annotated[
        list[str] | None,
        typer.Argument(help="Picture files, or texts with --text; - reads lines from stdin."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", "-t", help="The items are texts.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write: .npy, .jsonl or .parquet."),
    ] = None,
    output_format: Annotated[
        Format | None, typer.Option("--format", help="Default: by the file's name, else jsonl.")
    ] = None,
    null: Annotated[bool, typer.Option("-0", help="stdin is separated by NUL.")] = False,
    dim: Annotated[int | None, typer.Option(min=1, help="Keep this many numbers.")] = None,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = False,
    preprocess: PreprocessOption = None,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Embed pictures (or texts with --text) as unit vectors.

    Examples:
        pe embed *.jpg -o vectors.npy
        find . -name '*.png' -print0 | pe embed -0 - -o vectors.parquet
        pe embed --text "a red heart" "a dog"
    """
    names = _expand(items or ["-"], separator="\0" if null else "\n")
    if not names:
        raise typer.BadParameter("nothing to embed: give files, texts, or lines on stdin")
    chosen = output_format or _format_of(out)
    if out is None and chosen != "jsonl":
        raise typer.BadParameter(f"--format {chosen} needs a file: add --out")
    if text:
        from perception_encoder.preprocess.image_strings import refuse_image

        for number, name in enumerate(names, 1):
            refuse_image(name, item=f"text {number}")
    if out is not None and not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"{out.parent}: no such folder")
    loaded = open_model(
        model,
        device=device,
        backend=backend,
        precision=precision,
        compiled=compiled,
        preprocess=preprocess,
    )
    if text:
        vectors = loaded.embed_text(names, batch_size=batch_size, truncate_dim=dim)
    else:
        vectors = loaded.embed_images(names, batch_size=batch_size, truncate_dim=dim)
    _write(names, vectors, out, chosen)
    if out is not None:
        say(f"{len(names)} vectors of {vectors.shape[1]} numbers in {out}")


def _expand(items: list[str], separator: str) -> list[str]:
    """Replace "-" by what stdin holds."""
    names: list[str] = []
    for item in items:
        if item == "-":
            names += [line for line in sys.stdin.read().split(separator) if line.strip()]
        else:
            names.append(item)
    return names


def _format_of(out: Path | None) -> Format:
    if out is None:
        return "jsonl"
    formats: dict[str, Format] = {".npy": "npy", ".jsonl": "jsonl", ".parquet": "parquet"}
    if out.suffix not in formats:
        raise typer.BadParameter(f"{out.name}: the name must end in {', '.join(formats)}")
    return formats[out.suffix]


def _write(
    names: list[str], vectors: "NDArray[np.float32]", out: Path | None, chosen: Format
) -> None:
    if out is None:
        for name, vector in zip(names, vectors, strict=True):
            write_json({"item": name, "vector": vector.tolist()})
    elif chosen == "npy":
        import numpy as np

        with out.open("wb") as file:
            np.save(file, vectors)
    elif chosen == "jsonl":
        import json

        with out.open("w", encoding="utf-8") as lines:
            for name, vector in zip(names, vectors, strict=True):
                record = {"item": name, "vector": vector.tolist()}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
        pq.write_table(pa.table({"item": names, "vector": column}), out)
