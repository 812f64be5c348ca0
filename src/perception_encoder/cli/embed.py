"""`pe embed`: embeddings of images, videos and texts, to stdout or to a file written as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

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
from perception_encoder.cli.output import check_file, say, to_json, write_json
from perception_encoder.cli.text_files import find_error, read_list
from perception_encoder.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.preprocess import ImageInput
    from perception_encoder.types import Embeddings

Format = Literal["jsonl", "npy", "parquet"]


class InputItem(NamedTuple):
    """A text or a file name; `line` of standard input, 0 for an argument."""

    value: str
    line: int = 0

    def describe(self, position: int) -> str:
        """Name the item in a message; its value may be empty."""
        return f"standard input, line {self.line}" if self.line else f"item {position + 1}"


def embed(  # noqa: PLR0913  one parameter for each option
    items: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image or video files, or texts with --text; - reads lines from stdin."
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", "-t", help="The items are texts.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write: .npy, .jsonl or .parquet."),
    ] = None,
    output_format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="[default: that of the file's name, or jsonl]", show_default=False
        ),
    ] = None,
    null: Annotated[bool, typer.Option("-0", help="Items on stdin are separated by NUL.")] = False,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Truncate embeddings to this many dimensions.")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = False,
    preprocess: PreprocessOption = None,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Write the embeddings of images, videos or texts to a file or to stdout.

    Embeddings have unit length. That of a video is the mean of eight evenly spaced frames;
    clip.mp4#t=1:23 is the frame at that time; both need the extra `video`. A part of an image is
    dog.jpg#xywh=10,20,200,150.

    An item that cannot be embedded is reported, the others are written, and the exit code is 1. A
    .npy has one row for each item, in order, with NaN for those that failed; the other formats name
    their items and leave those out. Each line of stdin is an item; an empty line is an empty text,
    but no file.

    Examples:
        pe embed *.jpg -o vectors.npy
        find . -name '*.png' -print0 | pe embed -0 - -o vectors.parquet
        pe embed --text "a red heart" "a dog"
    """
    inputs = _expand(items or ["-"], null=null)
    if not inputs:
        raise typer.BadParameter("nothing to embed: give files, texts, or lines on stdin")
    chosen = output_format or _find_format(out)
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
    embed_inputs = _embed_texts if text else _embed_images
    embeddings, errors = embed_inputs(loaded, inputs, batch_size, dim)
    for error in errors.values():
        say(f"pe: {error}")
    kept = [position for position in range(len(inputs)) if position not in errors]
    if kept:
        _write(inputs, embeddings, kept, out, chosen)
        if out is not None:
            say(f"{out}: {len(kept)} embeddings of {embeddings.shape[1]} dimensions")
    if errors:
        if len(inputs) > 1:
            rows = "; their rows are NaN" if kept and chosen == "npy" else ""
            say(f"pe: {len(errors)} of {len(inputs)} items not embedded{rows}")
        raise typer.Exit(1)


def _expand(items: list[str], *, null: bool) -> list[InputItem]:
    """Replace "-" with the lines of stdin."""
    inputs: list[InputItem] = []
    for item in items:
        if item == "-":
            lines = read_list(Path(item), null=null)
            inputs += [InputItem(line, number) for number, line in enumerate(lines, 1)]
        else:
            inputs.append(InputItem(item))
    return inputs


def _find_format(out: Path | None) -> Format:
    if out is None:
        return "jsonl"
    formats: dict[str, Format] = {".npy": "npy", ".jsonl": "jsonl", ".parquet": "parquet"}
    if out.suffix not in formats:
        raise typer.BadParameter(f"{out.name}: the name must end in {', '.join(formats)}")
    return formats[out.suffix]


def _embed_texts(
    model: EmbeddingModel, inputs: Sequence[InputItem], batch_size: int, dim: int | None
) -> tuple[Embeddings, dict[int, str]]:
    """Return (N, E) embeddings, NaN for invalid texts, and the error at each such position."""
    import numpy as np

    errors = {
        position: error
        for position, one in enumerate(inputs)
        if (error := find_error(one.value, one.describe(position)))
    }
    usable = [position for position in range(len(inputs)) if position not in errors]
    embedded = model.embed_text(
        [inputs[position].value for position in usable], batch_size=batch_size, truncate_dim=dim
    )
    embeddings = np.full((len(inputs), embedded.shape[1]), np.nan, np.float32)
    embeddings[usable] = embedded
    return embeddings, errors


def _embed_images(
    model: EmbeddingModel, inputs: Sequence[InputItem], batch_size: int, dim: int | None
) -> tuple[Embeddings, dict[int, str]]:
    """Return (N, E) embeddings, NaN for what cannot be used, and the error at each such position.

    A video has one embedding, the mean of evenly spaced frames.
    """
    import numpy as np

    from perception_encoder.video.names import is_clip

    clips = [position for position, one in enumerate(inputs) if is_clip(one.value)]
    images = sorted(set(range(len(inputs))) - set(clips))
    opened, wrong = _open_images([inputs[position].value for position in images])
    embedded, failures = model.embed_images(
        opened, batch_size=batch_size, truncate_dim=dim, errors="skip"
    )
    embeddings = np.full((len(inputs), embedded.shape[1]), np.nan, np.float32)
    embeddings[images] = embedded
    errors = {images[number]: str(failure) for number, failure in (failures | wrong).items()}
    for position in errors:
        if not inputs[position].value:
            errors[position] = f"{inputs[position].describe(position)}: empty, not a file name"
    for position in clips:
        try:
            embeddings[position] = model.embed_video(
                inputs[position].value, batch_size=batch_size, truncate_dim=dim
            )
        except ImageError as err:
            errors[position] = str(err)
    return embeddings, dict(sorted(errors.items()))


def _open_images(names: Sequence[str]) -> tuple[list[ImageInput], dict[int, ImageError]]:
    """Return paths and parts of images, and the error at each position without a proper box."""
    from perception_encoder.sources import open_named_image

    images: list[ImageInput] = []
    errors: dict[int, ImageError] = {}
    for position, name in enumerate(names):
        try:
            images.append(open_named_image(name))
        except ImageError as err:
            images.append(name)
            errors[position] = err
    return images, errors


def _write(
    inputs: Sequence[InputItem],
    embeddings: Embeddings,
    kept: Sequence[int],
    out: Path | None,
    chosen: Format,
) -> None:
    """Write embeddings in a format.

    Args:
        inputs: N items.
        embeddings: (N, E) float32, NaN where an item failed.
        kept: positions of the items that did not fail; a `.npy` gets all N rows nevertheless.
        out: the file; None for stdout.
        chosen: the format.

    Raises:
        OutputError: the file cannot be written; an earlier one stays as it was.
    """
    names = [inputs[position].value for position in kept]
    if out is None:
        for name, embedding in zip(names, embeddings[kept], strict=True):
            write_json({"item": name, "vector": embedding.tolist()})
        return
    from perception_encoder.atomic import atomic_write
    from perception_encoder.errors import OutputError

    with atomic_write(out, OutputError) as path:
        if chosen == "npy":
            _write_npy(path, embeddings)
        elif chosen == "jsonl":
            _write_lines(path, names, embeddings[kept])
        else:
            _write_parquet(path, names, embeddings[kept])


def _write_npy(path: Path, embeddings: Embeddings) -> None:
    import numpy as np

    # Not `np.save`: on a full disk it truncates the rows and raises nothing.
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(embeddings)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(embeddings).data)


def _write_lines(path: Path, names: Sequence[str], embeddings: Embeddings) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for name, embedding in zip(names, embeddings, strict=True):
            lines.write(to_json({"item": name, "vector": embedding.tolist()}) + "\n")


def _write_parquet(path: Path, names: Sequence[str], embeddings: Embeddings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from perception_encoder.sources.item import escape_name

    column = pa.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1])
    with path.open("wb") as file:  # Arrow itself takes no name that is not valid Unicode
        pq.write_table(pa.table({"item": list(map(escape_name, names)), "vector": column}), file)
