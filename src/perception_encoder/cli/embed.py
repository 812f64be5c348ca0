"""`pe embed`: vectors of images and texts to a file or to stdout."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from perception_encoder.cli.embed_results import Format, write_vectors
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
from perception_encoder.cli.output import check_file, say
from perception_encoder.cli.text_files import find_problem, read_list

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.types import Embeddings


class Given(NamedTuple):
    """A text or a file name; `line` of standard input, 0 for an argument."""

    value: str
    line: int = 0

    def place(self, position: int) -> str:
        """What messages call it where its value says nothing."""
        return f"standard input, line {self.line}" if self.line else f"item {position + 1}"


def embed(  # noqa: PLR0913  one parameter for each option
    items: Annotated[
        list[str] | None,
        typer.Argument(help="Image files, or texts with --text; - reads lines from stdin."),
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
    """Write the embeddings of images or texts to a file or to stdout.

    An item that cannot be embedded is reported, and the exit code is 1; the others are written. A
    .npy has a row for each item in their order: NaN for those. The other formats name their items
    and leave those out. Each line of stdin is an item; an empty one is an empty text, but no file.

    Examples:
        pe embed *.jpg -o vectors.npy
        find . -name '*.png' -print0 | pe embed -0 - -o vectors.parquet
        pe embed --text "a red heart" "a dog"
    """
    given = _expand(items or ["-"], null=null)
    if not given:
        raise typer.BadParameter("nothing to embed: give files, texts, or lines on stdin")
    chosen = output_format or _format_of(out)
    if out is None and chosen != "jsonl":
        raise typer.BadParameter(f"--format {chosen} needs a file: add --out")
    check_file(out)
    loaded = open_model(
        model,
        device=device,
        backend=backend,
        precision=precision,
        compiled=compiled,
        preprocess=preprocess,
    )
    embedded = _embedded_texts if text else _embedded_images
    vectors, problems = embedded(loaded, given, batch_size, dim)
    for problem in problems.values():
        say(f"pe: {problem}")
    kept = [position for position in range(len(given)) if position not in problems]
    if kept:
        write_vectors([one.value for one in given], vectors, kept, out, chosen)
        if out is not None:
            say(f"{len(kept)} vectors of {vectors.shape[1]} numbers in {out}")
    if problems:
        if len(given) > 1:
            rows = "; their rows are NaN" if kept and chosen == "npy" else ""
            say(f"pe: {len(problems)} of {len(given)} items not embedded{rows}")
        raise typer.Exit(1)


def _embedded_texts(
    model: "EmbeddingModel", given: Sequence[Given], batch_size: int, dim: int | None
) -> "tuple[Embeddings, dict[int, str]]":
    """Embed texts; return NaN and the reason for those that are none."""
    import numpy as np

    problems = {
        position: problem
        for position, one in enumerate(given)
        if (problem := find_problem(one.value, one.place(position)))
    }
    usable = [position for position in range(len(given)) if position not in problems]
    embedded = model.embed_text(
        [given[position].value for position in usable], batch_size=batch_size, truncate_dim=dim
    )
    vectors = np.full((len(given), embedded.shape[1]), np.nan, np.float32)
    vectors[usable] = embedded
    return vectors, problems


def _embedded_images(
    model: "EmbeddingModel", given: Sequence[Given], batch_size: int, dim: int | None
) -> "tuple[Embeddings, dict[int, str]]":
    """Embed images; return NaN and the reason for those that cannot be used."""
    vectors, failures = model.embed_images(
        [one.value for one in given], batch_size=batch_size, truncate_dim=dim, errors="skip"
    )
    problems = {position: str(failure) for position, failure in failures.items()}
    for position in problems:
        if not given[position].value:
            problems[position] = (
                f"{given[position].place(position)}: empty; the name of a file is missing"
            )
    return vectors, problems


def _expand(items: list[str], *, null: bool) -> list[Given]:
    """Replace "-" by what stdin holds, a line for an item."""
    given: list[Given] = []
    for item in items:
        if item == "-":
            listed = read_list(Path(item), null=null)
            given += [Given(line, number) for number, line in enumerate(listed, 1)]
        else:
            given.append(Given(item))
    return given


def _format_of(out: Path | None) -> Format:
    if out is None:
        return "jsonl"
    formats: dict[str, Format] = {".npy": "npy", ".jsonl": "jsonl", ".parquet": "parquet"}
    if out.suffix not in formats:
        raise typer.BadParameter(f"{out.name}: the name must end in {', '.join(formats)}")
    return formats[out.suffix]
