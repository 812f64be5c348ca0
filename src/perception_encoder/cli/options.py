"""Options that several commands share, and how they open a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perception_encoder import settings
from perception_encoder.cli.outputs import check_text_name

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

BackendChoice = Literal["auto", "torch", "openvino", "onnx"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PreprocessChoice = Literal["standard", "reference", "fast"]

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", envvar="PE_MODEL", help="Model id, hub repository or path."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        envvar="PE_DEVICE", help="auto, cpu, cuda, cuda:1, mps; several: cuda:0,1 or cuda:all."
    ),
]
BackendOption = Annotated[BackendChoice, typer.Option(envvar="PE_BACKEND", help="Engine.")]
PrecisionOption = Annotated[
    PrecisionChoice, typer.Option(envvar="PE_PRECISION", help="Number format of the model.")
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        envvar="PE_COMPILE",
        help="Compile torch's towers: a minute or more at the start; meant for long runs on a GPU.",
    ),
]
PreprocessOption = Annotated[
    PreprocessChoice | None,
    typer.Option(
        envvar="PE_PREPROCESS",
        help="standard; reference: bit for bit the original; fast: large pictures in less time.",
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(envvar="PE_BATCH_SIZE", min=1, help="Pictures or texts computed at once.")
]
TableOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        envvar="PE_DB",
        help="Table of vectors: a folder, or s3://bucket/name; default: in your data folder.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="Leave out: a name or path, as in .gitignore.")
]
ColumnOption = Annotated[
    str | None, typer.Option(help="A table's column of pictures, paths or URLs.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object a line; NaN and infinities are null.")
]
TableModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", envvar="PE_MODEL", help="Default: the model of the table."),
]
WhereOption = Annotated[
    str | None, typer.Option(help='Only rows that meet an SQL condition: "width > 800".')
]
PathsOption = Annotated[bool, typer.Option("--paths", help="Only the paths.")]
NullOption = Annotated[bool, typer.Option("-0", help="Only the paths, each ended by NUL.")]
DEFAULT_MODEL = settings.DEFAULT_MODEL


def open_model(
    name: str,
    *,
    device: str = "auto",
    backend: BackendChoice = "auto",
    precision: PrecisionChoice = "auto",
    compiled: bool = False,
    preprocess: PreprocessChoice | None = None,
) -> "EmbeddingModel":
    """Open the model that the options name."""
    from perception_encoder.auto import AutoModel

    return AutoModel.from_pretrained(
        name,
        device=device,
        backend=backend,
        precision=precision,
        compile=compiled,
        preprocess=preprocess,
    )


def check_moving(folder: Path | None, *, dry_run: bool, yes: bool) -> None:
    """Refuse to move files unless that is wanted for sure."""
    if folder is not None and not (dry_run or yes):
        raise typer.BadParameter("--move-to moves files: look with --dry-run, then add --yes")
    if folder is None and (dry_run or yes):
        raise typer.BadParameter("--dry-run and --yes go with --move-to")
    if folder is not None:
        check_text_name(str(folder))  # it is written down
        if folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"{folder}: this is a file; name a folder")


def table_path(path: str | None) -> str:
    """The table that was named, or this user's own."""
    return check_text_name(path if path is not None else str(settings.default_table()))
