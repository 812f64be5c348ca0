"""Options that several commands share, with the model and the labels that they name."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import typer

from perception_encoder import settings
from perception_encoder.cli.output import check_text_name, say
from perception_encoder.cli.text_files import find_error, read_text

if TYPE_CHECKING:
    from perception_encoder.analysis.labels import Labels
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index


DEFAULT_MODEL = settings.DEFAULT_MODEL

BackendChoice = Literal["auto", "torch", "openvino", "onnx"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PreprocessChoice = Literal["standard", "reference", "fast"]
PreviewChoice = Literal["auto", "kitty", "iterm2", "sixel", "blocks"]
LabelsOption = Annotated[
    str | None, typer.Option("--labels", "-l", help="Labels, separated by commas: cat,dog,red car.")
]
LabelsFileOption = Annotated[
    Path | None,
    typer.Option(
        help="File of labels, one a line: `cat`, or `pet: cat, dog` with the words that the model "
        'reads instead; or JSON: {"pet": ["cat", "dog"]}.'
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        "-t",
        help="A sentence with {} for the label, such as 'a photo of a {}'; several are averaged.  "
        "[default: {}]",
        show_default=False,
    ),
]
_MAX_LABEL: Final = 40  # characters of a label in a message; it may be an encoded image


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
SourcesModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="PE_MODEL",
        autocompletion=complete_model,
        help="Model id, Hugging Face repository or path.  [default: the model of the index; "
        f"with sources {DEFAULT_MODEL}]",
        show_default=False,
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
RayCoresOption = Annotated[
    int | None,
    typer.Option(
        "--ray-cores",
        min=1,
        help="CPU cores of each Ray worker.  [default: its share of the smallest machine]",
        show_default=False,
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
SinceOption = Annotated[
    str | None,
    typer.Option(help="Only photos taken from then on: 2023, 2023-05, yesterday, '2 weeks ago'."),
]
UntilOption = Annotated[
    str | None,
    typer.Option(help="Only photos taken until then, the whole year, month or day included."),
]
NearOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAT,LON,RADIUS",
        help="Only photos taken there: 48.137,11.575,5km; with the extra `places` also a town: "
        "Munich, 'Paris,US,5km'.",
    ),
]
CameraOption = Annotated[
    str | None, typer.Option(help="Only photos of cameras with this in their name, in any case.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON object a line; NaN and infinity are null.")
]
PathsOption = Annotated[bool, typer.Option("--paths", help="Write only the paths.")]
NullOption = Annotated[bool, typer.Option("-0", help="Write only the paths, each followed by NUL.")]


@dataclass(frozen=True, slots=True)
class RowFlags:
    """The options that choose rows of an index."""

    where: WhereOption = None
    since: SinceOption = None
    until: UntilOption = None
    near: NearOption = None
    camera: CameraOption = None

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) is not None for one in fields(self))

    def condition(self, index: Index) -> str | None:
        """Return the SQL condition of all of them.

        Raises:
            QueryError: one cannot be understood, or the index lacks its column.
        """
        if (self.since, self.until, self.near, self.camera) == (None, None, None, None):
            return self.where
        from perception_encoder.search.photo_filters import PhotoFilter

        photos = PhotoFilter.parse(
            since=self.since, until=self.until, near=self.near, camera=self.camera
        )
        return photos.where(self.where, index.schema, index.path)


@dataclass(frozen=True)
class ComputeFlags:
    """The options that say how a model is run."""

    device: DeviceOption = "auto"
    backend: BackendOption = "auto"
    precision: PrecisionOption = "auto"
    preprocess: PreprocessOption = None

    def open(self, model: str) -> EmbeddingModel:
        """Open a model; see `open_model`."""
        return open_model(
            model,
            device=self.device,
            backend=self.backend,
            precision=self.precision,
            preprocess=self.preprocess,
        )


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its parameters that are dataclasses of options."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        groups = {
            name: kind(**{one: values.pop(one) for one in _resolve_parameters(kind)})
            for name, kind in grouped.items()
        }
        command(**values, **groups)

    parameters, grouped = list[inspect.Parameter](), dict[str, type[Any]]()
    for name, one in _resolve_parameters(command).items():
        if isinstance(one.annotation, type) and is_dataclass(one.annotation):
            grouped[name] = one.annotation
            parameters += _resolve_parameters(one.annotation).values()
        else:
            parameters.append(one)
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _resolve_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function, or fields of a dataclass, with evaluated annotations."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    return {name: one.replace(annotation=hints[name]) for name, one in parameters.items()}


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


def read_labels(labels: str | None, file: Path | None) -> Labels | None:
    """Return the labels that the options name; None if they name none."""
    from perception_encoder.analysis.labels import parse_label_list

    if labels is not None and file is not None:
        raise typer.BadParameter("give --labels or --labels-file, not both")
    if file is not None:
        return read_labels_file(file)[0]
    if labels is None:
        return None
    try:
        return _check_labels(parse_label_list(labels))
    except ValueError as err:
        raise typer.BadParameter(f"--labels: {err}") from err


def read_labels_file(file: Path) -> tuple[Labels, int | None]:
    """Return a file's labels, and its first empty line before a label, which shifts numbers."""
    from perception_encoder.analysis.labels import find_gap, parse_labels

    text = read_text(file)
    try:
        return _check_labels(parse_labels(text)), find_gap(text)
    except ValueError as err:
        raise typer.BadParameter(f"{file}: {err}") from err


def check_templates(templates: list[str] | None) -> list[str]:
    """Return the templates, or the default one if none is given.

    Raises:
        typer.BadParameter: one of them is not valid text, or has no {}.
    """
    from perception_encoder.analysis.classifiers import DEFAULT_TEMPLATE

    templates = templates or [DEFAULT_TEMPLATE]
    for template in templates:
        if error := find_error(template, f"--template {template[:_MAX_LABEL]!a}"):
            raise typer.BadParameter(error)
        if "{}" not in template:
            raise typer.BadParameter(f"--template {template!r} needs {{}} where the label goes")
    return templates


def _check_labels(labels: Labels) -> Labels:
    """Return the labels.

    Raises:
        ValueError: one of them is not valid text.
    """
    for label, names in labels.items():
        for name in (label, *names):
            if error := find_error(name, f"the label {label[:_MAX_LABEL]!a}"):
                raise ValueError(error)
    return labels


PHOTO_MODEL: Final = "PE-Core-S16-384"
ABOUT_DEFAULT_MODEL: Final = (
    f"{DEFAULT_MODEL}, which knows drawings, not photos; for photos: --model {PHOTO_MODEL} "
    "(`pe models` lists all)"
)
_CAMERA_SUFFIXES: Final = (".jpg", ".jpeg", ".heic", ".heif")
_NUM_NAMES: Final = 200  # of an index, to judge whether it holds photos


def choose_model() -> str:
    """Return the model for a new index: asks on a terminal, otherwise says which one it takes."""
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if is_offline or not (sys.stdin.isatty() and sys.stderr.isatty()):
        say(f"new index with {ABOUT_DEFAULT_MODEL}")
        return DEFAULT_MODEL
    from perception_encoder.registry import find

    entry = find(PHOTO_MODEL)
    say(
        "Which model should embed the images? (--model skips this question; `pe models` lists all)",
        f"  1  {PHOTO_MODEL}: photos and everything else; "
        f"downloads {4 * entry.num_parameters / 1e6:,.0f} MB once",
        f"  2  {DEFAULT_MODEL}: drawings only; small, fast and already here",
    )
    answer = ""
    while answer not in ("1", "2"):
        answer = typer.prompt("1 or 2", default="1", err=True)
    return PHOTO_MODEL if answer == "1" else DEFAULT_MODEL


def warn_of_photo_index(index: Index) -> None:
    """Warn that an index holds photos embedded by pe-nano, with the command for a better one."""
    if index.identity.model_id != DEFAULT_MODEL:
        return
    uris: list[str] = []
    for batch in index.scan(["uri"]):
        uris += batch["uri"].slice(0, _NUM_NAMES - len(uris)).to_pylist()
        if len(uris) >= _NUM_NAMES:
            break
    if _are_photos(uris):
        command = f"pe index --reembed {PHOTO_MODEL} --index {shlex.quote(index.path)}"
        say(f"{DEFAULT_MODEL} knows drawings, but this index holds photos; better: {command}")


def _are_photos(uris: list[str]) -> bool:
    """Return whether most files have a suffix that cameras write; PNG and WebP may be anything."""
    from perception_encoder.preprocess.files import RAW_SUFFIXES

    suffixes = RAW_SUFFIXES.union(_CAMERA_SUFFIXES)
    num_photos = sum(PurePath(uri).suffix.lower() in suffixes for uri in uris)
    return num_photos > len(uris) / 2
