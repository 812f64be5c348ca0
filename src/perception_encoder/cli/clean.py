"""`pe clean`: what is wrong with the images of a collection."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder import settings
from perception_encoder.cli.options import (
    DeviceOption,
    IndexOption,
    JsonOption,
    NullOption,
    PathsOption,
    RowFlags,
    complete_model,
    find_index,
    warn_of_photo_index,
    with_flags,
)
from perception_encoder.cli.output import (
    check_file,
    check_text_name,
    format_images,
    say,
    write_json,
    write_path,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perception_encoder.analysis.cleaning import CleaningReport, Kind
    from perception_encoder.index import Index, Row

LabelColumnOption = Annotated[
    str | None,
    typer.Option(help="Column of the labels.  [default: label, if there is one]"),
]
LabelFoldersOption = Annotated[
    bool, typer.Option("--label-folders", help="Labels are the names of the images' folders.")
]
_MAX_SAID: Final = 10  # notes and unreadable images


@with_flags
def clean(  # noqa: PLR0913  one parameter for each option
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="INDEX|FOLDER",
            help="An index; or a folder of images, of which an index is made in your cache "
            "folder.  [default: --index]",
            show_default=False,
        ),
    ] = None,
    index_path: IndexOption = None,
    *,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page with the images; one file.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most images of a kind on the page.")] = 100,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only look for this kind, such as blurry or wrong-label; repeat it for several.  "
            "[default: all]",
            show_default=False,
        ),
    ] = None,
    label_column: LabelColumnOption = None,
    label_folders: LabelFoldersOption = False,
    split_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the splits.  [default: split, or folders named train, val, test]"
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Lowest cosine of near-duplicates across splits.")
    ] = 0.98,
    outlier_rate: Annotated[
        float, typer.Option(help="Share of ordinary images that may be called outliers.")
    ] = 0.001,
    rows: RowFlags,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="PE_MODEL",
            autocompletion=complete_model,
            help="For a folder: model id, Hugging Face repository or path.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Find what is wrong with the images of a collection; nothing is changed or deleted.

    Kinds: leaks (near-duplicates across splits), wrong labels, outliers, blurry, dark, bright and
    blank images, low information, odd aspect ratios; and the balance of the classes. Duplicates are
    only counted: `pe duplicates` lists them. Pixels are read once and then remembered in the index.

    Examples:
        pe clean ~/dataset --report report.html
        pe clean --index images.lance --label-column species --json
        pe clean ~/dataset --only blurry --only dark --paths -0 | xargs -0 ls -l
    """
    from perception_encoder.analysis.cleaning import CleaningOptions, clean_index
    from perception_encoder.cli.progress import show_steps

    check_file(report)
    try:
        options = CleaningOptions(
            kinds=_read_kinds(only),
            label_column=label_column,
            label_folders=label_folders,
            split_column=split_column,
            threshold=threshold,
            outlier_rate=outlier_rate,
        )
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err
    index, has_failed = _open(path, index_path, model, device)
    warn_of_photo_index(index)
    with show_steps(f"looking through {format_images(index.count())}") as show:
        found = clean_index(index, _read, options, where=rows.condition(index), report=show)
    if report is not None:
        with show_steps(f"drawing {report}") as show:
            found.save(report, title=path, limit=limit, report=show)
    if paths or null:
        _write_paths(found, null=null)
    elif as_json:
        _write_json(found)
    else:
        _write_counts(found)
    _say(found, report)
    say_damaged(found.damaged)
    if has_failed or found.num_unreadable or found.damaged:
        raise typer.Exit(1)


def _read_kinds(only: list[str] | None) -> list[Kind]:
    """Return the kinds that --only names, or all."""
    from perception_encoder.analysis.cleaning.report import KINDS

    names = {kind.replace(" ", "-"): kind for kind in KINDS}
    for name in only or ():
        if name not in names:
            raise typer.BadParameter(f"--only {name}: unknown kind; one of: {', '.join(names)}")
    return [kind for name, kind in names.items() if not only or name in only]


def _open(
    path: str | None, index_path: str | None, model: str | None, device: str
) -> tuple[Index, bool]:
    """Open the index that the arguments name, or index the folder that they name.

    Returns:
        The index, and whether an image of the folder could not be indexed.
    """
    from perception_encoder.errors import IndexNotFoundError
    from perception_encoder.index import Index

    if path is None:
        return Index.open(find_index(index_path)), False
    check_text_name(path)
    try:
        return Index.open(path), False
    except IndexNotFoundError:
        if not os.path.isdir(path):
            raise
    return _index_folder(path, index_path, model, device)


def _index_folder(
    folder: str, index_path: str | None, model: str | None, device: str
) -> tuple[Index, bool]:
    """Index a folder in the cache folder, or where --index says; unchanged images are skipped."""
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.cli.index import fill_index

    if index_path is None:
        key = hashlib.sha256(f"{os.path.realpath(folder)}\0{model}".encode()).hexdigest()[:16]
        target = settings.cache_folder() / "clean" / f"{key}.lance"
        target.parent.mkdir(parents=True, exist_ok=True)
        index_path = str(target)
    return fill_index(index_path, [folder], model, ComputeOptions(device=device))


def _read(row: Row) -> bytes:
    from perception_encoder.sources import read_image

    return read_image(row.uri, row.member, row.offset)


def say_damaged(rows: Sequence[Row]) -> None:
    """Report the rows that were left out because their embedding is damaged."""
    from perception_encoder.analysis.ranked_images import DAMAGE_REASON

    for row in rows[:_MAX_SAID]:
        say(f"pe: {row.name}: {DAMAGE_REASON}")
    if len(rows) > _MAX_SAID:
        say(f"pe: {format_images(len(rows))} left out: their vectors are damaged")


def _write_paths(found: CleaningReport, *, null: bool) -> None:
    for uri in dict.fromkeys(one.row.uri for one in found if one.row.member is None):
        write_path(uri, null=null)
    num_packed = len({one.row.name for one in found if one.row.member is not None})
    if num_packed:
        say(f"{num_packed} in archives are not listed: --json does")


def _write_json(found: CleaningReport) -> None:
    for one in found:
        write_json(one.to_record())
    for row, why in found.unreadable:
        write_json({"kind": "unreadable", "uri": row.uri, "member": row.member, "detail": why})
    if found.classes is not None:
        sizes, rare = found.classes.sizes, set(found.classes.rare)
        for label, size in sizes.items():
            write_json(
                {"kind": "class size", "label": label, "images": size, "is_rare": label in rare}
            )
    if found.duplicates is not None:
        copies, near = found.duplicates
        write_json({"kind": "duplicates", "identical_bytes": copies, "near": near})


def _write_counts(found: CleaningReport) -> None:
    lines = []
    for kind, each in found.findings.items():
        worst = f"{each[0].row.shown_name}: {each[0].detail}" if each else ""
        lines.append([kind, str(len(each)), worst])
    write_table(["kind", "images", "worst"], lines)


def _say(found: CleaningReport, report: Path | None) -> None:
    for note in found.notes[:_MAX_SAID]:
        say(f"pe: {note}")
    for _, why in found.unreadable[:_MAX_SAID]:
        say(f"pe: {why}")
    if found.num_unreadable > _MAX_SAID:
        say(f"pe: {found.num_unreadable:,} images could not be read")
    if found.duplicates is not None and any(found.duplicates):
        copies, near = found.duplicates
        say(
            f"{copies + near:,} redundant images ({copies:,} with identical bytes, {near:,} nearly "
            f"identical): pe duplicates --index {shlex.quote(found.index_path)}"
        )
    if found.classes is not None:
        say(
            f"{len(found.classes.sizes):,} classes; the largest is {found.classes.ratio:,.1f} "
            f"times the smallest; {len(found.classes.rare):,} have less than a tenth of the largest"
        )
    flagged = len({one.row.name for one in found})
    say(f"{found.index_path}: {flagged:,} of {format_images(found.num_images)} to look at")
    if report is not None:
        say(f"{report}: {report.stat().st_size / 1e6:.1f} MB")
