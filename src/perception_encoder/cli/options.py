"""Options that several commands share, and opening the model that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perception_encoder import settings
from perception_encoder.cli.output import check_text_name

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

DEFAULT_MODEL = settings.DEFAULT_MODEL

BackendChoice = Literal["auto", "torch", "openvino", "onnx"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PreprocessChoice = Literal["standard", "reference", "fast"]
PreviewChoice = Literal["auto", "kitty", "iterm2", "sixel", "blocks"]


def complete_model(incomplete: str) -> list[str]:
    """Return the registered model ids that begin so, for the completion of shells."""
    from perception_encoder.registry import MODELS

    names = [entry.id.removeprefix("perception-encoder/") for entry in MODELS]
    return [name for name in names if name.startswith(incomplete)]


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="PE_MODEL",
        autocompletion=complete_model,
        help="Model id, Hugging Face repository or path.",
    ),
]
IndexModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="PE_MODEL",
        autocompletion=complete_model,
        help="Model id, Hugging Face repository or path.  [default: the model of the index]",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        envvar="PE_DEVICE",
        help="auto, cpu, cuda, cuda:1 or mps; several GPUs: cuda:0,1 or cuda:all.",
    ),
]
BackendOption = Annotated[
    BackendChoice, typer.Option(envvar="PE_BACKEND", help="Library that runs the model.")
]
PrecisionOption = Annotated[
    PrecisionChoice, typer.Option(envvar="PE_PRECISION", help="Number format of the model.")
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        envvar="PE_COMPILE",
        help="Compile the torch model: takes a minute or more, pays off in long runs on a GPU.",
    ),
]
PreprocessOption = Annotated[
    PreprocessChoice | None,
    typer.Option(
        envvar="PE_PREPROCESS",
        help="reference: bit for bit as the original; fast: decodes large images in less time.",
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(envvar="PE_BATCH_SIZE", min=1, help="Images or texts in one batch.")
]
IndexOption = Annotated[
    str | None,
    typer.Option(
        "--index",
        envvar="PE_INDEX",
        help="Index: a folder, or s3://bucket/name.  [default: the one in your data folder]",
        show_default=False,
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(help="Skip a name or path, written as in .gitignore; repeat it for several."),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(help="Column of a .parquet, .csv or .jsonl file with images, paths or URLs."),
]
WhereOption = Annotated[
    str | None, typer.Option(help='Only rows that meet an SQL condition: "width > 800".')
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON object a line; NaN and infinity are null.")
]
PathsOption = Annotated[bool, typer.Option("--paths", help="Write only the paths.")]
NullOption = Annotated[bool, typer.Option("-0", help="Write only the paths, each followed by NUL.")]


def open_model(
    name: str,
    *,
    device: str = "auto",
    backend: BackendChoice = "auto",
    precision: PrecisionChoice = "auto",
    compiled: bool = False,
    preprocess: PreprocessChoice | None = None,
) -> EmbeddingModel:
    """Open the model that the options name, and report it if that takes long."""
    from perception_encoder.auto import AutoModel
    from perception_encoder.cli.progress import show_steps

    with show_steps(f"opening {name}", updates=False):
        return AutoModel.from_pretrained(
            name,
            device=device,
            backend=backend,
            precision=precision,
            compile=compiled,
            preprocess=preprocess,
        )


def find_index(path: str | None) -> str:
    """Return the named index, or this user's default one."""
    return check_text_name(path if path is not None else str(settings.default_index()))


def check_moving(folder: Path | None, *, dry_run: bool, yes: bool) -> None:
    """Refuse to move files without --yes or --dry-run.

    Raises:
        typer.BadParameter: the options do not fit together, or the folder is a file.
    """
    if folder is not None and not (dry_run or yes):
        raise typer.BadParameter("--move-to moves files: look with --dry-run, then add --yes")
    if folder is None and (dry_run or yes):
        raise typer.BadParameter("--dry-run and --yes go with --move-to")
    if folder is not None:
        check_text_name(str(folder))  # it is written into the list of moves
        if folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"{folder}: this is a file; name a folder")
