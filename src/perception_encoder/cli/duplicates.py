"""`pe duplicates`: duplicate images in an index, and which of them to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from perception_encoder.cli.options import (
    IndexOption,
    JsonOption,
    NullOption,
    PathsOption,
    RowFlags,
    check_moving,
    find_index,
    with_flags,
)
from perception_encoder.cli.output import (
    check_file,
    check_sheet,
    format_images,
    say,
    write_json,
    write_line,
    write_path,
    write_table,
)

if TYPE_CHECKING:
    from perception_encoder.analysis.duplicates import Duplicate, DuplicateGroup, Duplicates, Tier
    from perception_encoder.index import Row

TierChoice = Literal["bytes", "pixels", "near", "similar"]
KeepChoice = Literal["resolution", "size", "oldest", "newest", "first"]

_TIERS: Final[dict[TierChoice, Tier]] = {
    "bytes": "identical bytes",
    "pixels": "identical pixels",
    "near": "near duplicate",
    "similar": "similar",
}
_SHEET_GROUPS: Final = 100
_SHEET_OTHERS: Final = 12


@with_flags
def duplicates(  # noqa: PLR0913  one parameter for each option
    index_path: IndexOption = None,
    tier: Annotated[
        TierChoice | None,
        typer.Option(
            help="How similar duplicates are; each tier includes those before it.  [default: near, "
            "or pixels with options that list or move files]",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Lowest cosine of near duplicates [0.98], or of similar images [0.9]."),
    ] = None,
    keep: Annotated[
        KeepChoice,
        typer.Option(help="Which image of a group to keep; ties: pixels, bytes, then path."),
    ] = "resolution",
    *,
    rows: RowFlags,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the groups, kept images on the left: .png, .jpg, .webp or .html."),
    ] = None,
    script: Annotated[
        Path | None, typer.Option(help="Write a shell script that removes the other images.")
    ] = None,
    move_to: Annotated[
        Path | None, typer.Option(help="Move the other images into this folder; needs --yes.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --move-to: only show the moves.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --move-to: move the files.")] = False,
) -> None:
    """Find duplicate and nearly identical images, and choose which to keep.

    Each group keeps one image; the others were compared with it. Nothing is ever deleted. --paths
    and -0 list the other images, without those inside archives. Near duplicates are a judgment of
    the model: --paths, -0, --script and --move-to include them only with --tier near.

    Examples:
        pe duplicates
        pe duplicates --script remove.sh
        pe duplicates --keep oldest --move-to ~/redundant --dry-run
        pe duplicates --tier similar --threshold 0.92 --sheet groups.png
    """
    leads_to_removal = move_to is not None or script is not None or paths or null
    is_cautious = tier is None and leads_to_removal
    tier = tier or ("pixels" if is_cautious else "near")
    check_moving(move_to, dry_run=dry_run, yes=yes)
    check_file(script)
    check_sheet(sheet)
    from perception_encoder.analysis.duplicates import find_duplicates
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index

    index = Index.open(find_index(index_path))
    where = rows.condition(index)
    with show_steps(f"comparing {format_images(index.count())}") as report:
        found = find_duplicates(
            index,
            _read,
            tier=_TIERS[tier],
            threshold=threshold,
            keep=keep,
            where=where,
            report=report,
        )
    if move_to is not None:
        _move(found.groups, move_to, dry_run=dry_run, as_json=as_json)
    elif paths or null:
        _write_paths(found.groups, null=null)
    elif as_json:
        _write_json(found.groups)
    elif found.groups:
        _write_table(found.groups)
    if script is not None:
        _write_script(script, found.groups)
    if sheet is not None and found.groups:
        _draw_sheet(sheet, found.groups)
    _report(found)
    if is_cautious:
        say(
            "near duplicates are not included: look at them with `pe duplicates`, then add "
            "--tier near"
        )


def _read(row: Row) -> bytes:
    from perception_encoder.sources import read_image

    return read_image(row.uri, row.member, row.offset)


def _write_paths(groups: Sequence[DuplicateGroup], *, null: bool) -> None:
    from perception_encoder.analysis.file_moves import can_be_moved

    rows = [other.row for group in groups for other in group.others]
    for row in rows:
        if can_be_moved(row):
            write_path(row.uri, null=null)
    num_packed = sum(not can_be_moved(row) for row in rows)
    if num_packed:
        say(f"{num_packed} in archives or at URLs are not listed: --json does")


def _write_json(groups: Sequence[DuplicateGroup]) -> None:
    for group in groups:
        write_json(
            {
                "tier": group.tier,
                "keep": _to_record(group.kept),
                "others": [
                    {**_to_record(other.row), "tier": other.tier, "score": other.score}
                    for other in group.others
                ],
            }
        )


def _to_record(row: Row) -> dict[str, Any]:
    names = ("uri", "member", "width", "height", "bytes", "mtime")
    return {name: getattr(row, name) for name in names}


def _write_table(groups: Sequence[DuplicateGroup]) -> None:
    lines = []
    for number, group in enumerate(groups, start=1):
        lines.append([str(number), "keep", "", *_to_cells(group.kept)])
        lines += [
            ["", other.tier, f"{other.score:.4f}", *_to_cells(other.row)] for other in group.others
        ]
    write_table(["group", "tier", "score", "pixels", "bytes", "image"], lines)


def _to_cells(row: Row) -> tuple[str, str, str]:
    return f"{row.width or '?'}x{row.height or '?'}", str(row.bytes or "?"), row.name


def _write_script(path: Path, groups: Sequence[DuplicateGroup]) -> None:
    from perception_encoder.analysis.file_moves import build_removal_script
    from perception_encoder.atomic import atomic_write
    from perception_encoder.errors import OutputError

    script = build_removal_script(groups)
    with atomic_write(path, OutputError) as partial_file:
        partial_file.write_text(script, encoding="utf-8")
    say(f"{path}: read it, then run it with sh; nothing is removed yet")
    num_lines = sum(not line.startswith("#") for line in script.splitlines() if line)
    num_left = sum(len(group.others) for group in groups) - num_lines
    if num_left:
        say(f"{format_images(num_left)} stay; comments in it say why")


def _move(groups: Sequence[DuplicateGroup], folder: Path, *, dry_run: bool, as_json: bool) -> None:
    from perception_encoder.analysis.file_moves import MANIFEST, move_duplicates

    num_moved = 0
    try:
        for move in move_duplicates(groups, str(folder), dry_run=dry_run):
            if move.error:
                say(f"{move.source}: stays: it {move.error}")
                continue
            num_moved += 1
            if as_json:
                write_json({"from": move.source, "to": move.target, "keep": move.kept.name})
            else:
                write_line(f"{move.source} -> {move.target}")
    finally:  # also after an error half way
        if dry_run:
            say(f"{format_images(num_moved)} would move to {folder}; nothing was touched")
        elif num_moved:
            say(
                f"{format_images(num_moved)} moved to {folder}, listed in {folder / MANIFEST}; "
                "pe index --prune removes them from the index"
            )


def _draw_sheet(path: Path, groups: Sequence[DuplicateGroup]) -> None:
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow
    from perception_encoder.cli.progress import draw_sheet

    def to_hit(other: Duplicate) -> SheetHit:
        return SheetHit(
            partial(_read, other.row), other.score, f"{_name(other.row)} ({other.tier})"
        )

    rows = [
        SheetRow(
            [to_hit(other) for other in group.others[:_SHEET_OTHERS]],
            text=f"keep {_name(group.kept)}",
            image=partial(_read, group.kept),
        )
        for group in groups[:_SHEET_GROUPS]
    ]
    is_all = len(groups) <= _SHEET_GROUPS
    draw_sheet(
        path, rows, f"the {'' if is_all else f'first {_SHEET_GROUPS} of {len(groups)} '}groups"
    )


def _name(row: Row) -> str:
    return Path(row.member or row.uri).name


def _report(found: Duplicates) -> None:
    for left_out in found.left_out:
        say(f"left out: {left_out.row.uri} {left_out.reason}")
    others = [other for group in found.groups for other in group.others]
    if not others:
        say(f"no duplicates among {format_images(found.num_images)}")
        return
    counts = Counter(other.tier for other in others)
    listed = ", ".join(f"{counts[tier]} {tier}" for tier in _TIERS.values() if counts[tier])
    megabytes = sum(other.row.bytes or 0 for other in others) / 1e6
    groups = "1 group" if len(found.groups) == 1 else f"{len(found.groups)} groups"
    say(
        f"{groups}: {len(others)} of {format_images(found.num_images)} are redundant ({listed}), "
        f"{megabytes:.1f} MB"
    )
    if found.num_crowded:
        say(
            f"{found.num_crowded} of the kept images have too many near images to compare all; "
            "remove the redundant ones, run pe index --prune, then this again"
        )
