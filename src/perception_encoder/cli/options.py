"""Options that several commands share, and how they open a model."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception_encoder import settings
from perception_encoder.cli.output import check_text_name

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel


BackendChoice = Literal["auto", "torch", "openvino", "onnx"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PreprocessChoice = Literal["standard", "reference", "fast"]


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
DeviceOption = Annotated[
    str,
    typer.Option(
        envvar="PE_DEVICE", help="auto, cpu, cuda, cuda:1, mps; several: cuda:0,1 or cuda:all."
    ),
]
BackendOption = Annotated[BackendChoice, typer.Option(envvar="PE_BACKEND", help="Backend.")]
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
        help="standard; reference: bit for bit the original; fast: large images in less time.",
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(envvar="PE_BATCH_SIZE", min=1, help="Images or texts computed at once.")
]
IndexOption = Annotated[
    str | None,
    typer.Option(
        "--index",
        envvar="PE_INDEX",
        help="Table of vectors: a folder, or s3://bucket/name; default: in your data folder.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="Leave out: a name or path, as in .gitignore.")
]
ColumnOption = Annotated[
    str | None, typer.Option(help="An index's column of images, paths or URLs.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object a line; NaN and infinities are null.")
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
WhereOption = Annotated[
    str | None, typer.Option(help='Only rows that meet an SQL condition: "width > 800".')
]
PathsOption = Annotated[bool, typer.Option("--paths", help="Only the paths.")]
NullOption = Annotated[bool, typer.Option("-0", help="Only the paths, each ended by NUL.")]
DEFAULT_MODEL = settings.DEFAULT_MODEL
PreviewChoice = Literal["auto", "kitty", "iterm2", "sixel", "blocks"]


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


def find_index(path: str | None) -> str:
    """The index that was named, or this user's own."""
    return check_text_name(path if path is not None else str(settings.default_index()))


@dataclass(frozen=True, slots=True)
class SearchFlags:
    """The shared options as they were given."""

    index_path: IndexOption = None
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits, at most.")] = 10
    offset: Annotated[
        int, typer.Option(min=0, help="Leave out so many of the best: the next page.")
    ] = 0
    threshold: Annotated[
        str | None,
        typer.Option(help="The lowest cosine of a hit, such as 0.3; or its label: strong, weak."),
    ] = None
    where: WhereOption = None
    exact: Annotated[
        bool, typer.Option("--exact", help="Look at every vector, also of a large index.")
    ] = False
    unique: Annotated[
        float | None,
        typer.Option(
            metavar="[=COSINE]", help="Fold near-duplicates under the best hit of them [0.95]."
        ),
    ] = None
    as_json: JsonOption = False
    paths: PathsOption = False
    null: NullOption = False
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the query and its hits as one image.")
    ] = None
    preview: Annotated[
        PreviewChoice | None,
        typer.Option(
            metavar="[=PROTOCOL]", help="Show the hits here: kitty, iterm2, sixel, blocks."
        ),
    ] = None
    open_hits: Annotated[
        bool, typer.Option("--open", help="Open the hits in this machine's viewer.")
    ] = False
    model: IndexModelOption = None
    device: DeviceOption = "auto"


def with_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose last parameter is `flags: SearchFlags` an option for each field."""
    shared = inspect.signature(SearchFlags).parameters

    @functools.wraps(command)
    def run(**values: Any) -> None:
        flags = SearchFlags(**{name: values.pop(name) for name in shared})
        command(**values, flags=flags)

    own = [p for name, p in inspect.signature(command).parameters.items() if name != "flags"]
    parameters = [*own, *(p.replace(kind=own[-1].kind) for p in shared.values())]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
