"""`pe duplicates`: what an index has more than once, and which of it to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception_encoder.cli.options import (
    IndexOption,
    JsonOption,
    NullOption,
    PathsOption,
    WhereOption,
    check_moving,
    find_index,
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

_TIERS: dict[TierChoice, Tier] = {
    "bytes": "identical bytes",
    "pixels": "identical pixels",
    "near": "near duplicate",
    "similar": "similar",
}
_SHEET_GROUPS = 100
_SHEET_OTHERS = 12


def duplicates(  # noqa: PLR0913  one parameter for each option
    index_path: IndexOption = None,
    tier: Annotated[
        TierChoice | None,
        typer.Option(
            help="How far to go: each one includes those before it. [default: near; pixels where "
            "files are listed to be removed or moved]",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="The lowest cosine of near (0.98) or, with --tier similar, of it (0.9)."),
    ] = None,
    keep: Annotated[
        KeepChoice,
        typer.Option(help="Which image of a group stays; ties: pixels, bytes, then path."),
    ] = "resolution",
    where: WhereOption = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the groups as one image, kept ones on the left.")
    ] = None,
    script: Annotated[
        Path | None, typer.Option(help="Write a shell script that would remove the others.")
    ] = None,
    move_to: Annotated[
        Path | None, typer.Option(help="Move the others into this folder; needs --yes.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --move-to: only show what would move.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do move.")] = False,
) -> None:
    """Find duplicate and nearly identical images, and choose which to keep.

    Each group keeps one image, and every other was compared with that one. Nothing is ever
    deleted; --paths and -0 print the others only, without those inside archives. These two,
    --script and --move-to take near duplicates only if --tier says so, as those are what the model
    takes for the same: look at them first.

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
    with show_steps(f"comparing {format_images(index.count())}"):
        found = find_duplicates(
            index,
            _read,
            tier=_TIERS[tier],
            threshold=threshold,
            keep=keep,
            where=where,
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
        _draw(sheet, found.groups)
    _sum_up(found)
    if is_cautious:
        say(
            "near duplicates were not looked for: look at them with `pe duplicates`, then add "
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
    num_inside = sum(not can_be_moved(row) for row in rows)
    if num_inside:
        say(f"{num_inside} in archives or at URLs are not listed: --json does")


def _write_json(groups: Sequence[DuplicateGroup]) -> None:
    for group in groups:
        write_json(
            {
                "tier": group.tier,
                "keep": _facts(group.kept),
                "others": [
                    {**_facts(other.row), "tier": other.tier, "score": other.score}
                    for other in group.others
                ],
            }
        )


def _facts(row: Row) -> dict[str, Any]:
    names = ("uri", "member", "width", "height", "bytes", "mtime")
    return {name: getattr(row, name) for name in names}


def _write_table(groups: Sequence[DuplicateGroup]) -> None:
    lines = []
    for number, group in enumerate(groups, start=1):
        lines.append([str(number), "keep", "", *_shown(group.kept)])
        lines += [
            ["", other.tier, f"{other.score:.4f}", *_shown(other.row)] for other in group.others
        ]
    write_table(["group", "tier", "score", "pixels", "bytes", "image"], lines)


def _shown(row: Row) -> tuple[str, str, str]:
    return f"{row.width or '?'}x{row.height or '?'}", str(row.bytes or "?"), row.name


def _write_script(path: Path, groups: Sequence[DuplicateGroup]) -> None:
    from perception_encoder.analysis.file_moves import build_removal_script
    from perception_encoder.atomic import atomic_write
    from perception_encoder.errors import OutputError

    script = build_removal_script(groups)
    with atomic_write(path, OutputError) as partial_file:
        partial_file.write_text(script, encoding="utf-8")
    say(f"{path}: read it, then run it with sh; nothing has been removed")
    num_lines = sum(not line.startswith("#") for line in script.splitlines() if line)
    num_left = sum(len(group.others) for group in groups) - num_lines
    if num_left:
        say(f"{format_images(num_left)} stay, as comments in it say why")


def _move(groups: Sequence[DuplicateGroup], folder: Path, *, dry_run: bool, as_json: bool) -> None:
    from perception_encoder.analysis.file_moves import MANIFEST, move_duplicates

    num_moved = 0
    try:
        for move in move_duplicates(groups, str(folder), dry_run=dry_run):
            if move.problem:
                say(f"{move.source}: stays: it {move.problem}")
                continue
            num_moved += 1
            if as_json:
                write_json({"from": move.source, "to": move.target, "keep": move.kept.name})
            else:
                write_line(f"{move.source} -> {move.target}")
    finally:  # also where the disk is full half way
        if dry_run:
            say(f"{num_moved} would move to {folder}; nothing was touched")
        elif num_moved:
            say(
                f"{num_moved} moved to {folder}, written down in {folder / MANIFEST}; "
                "pe index --prune takes them out of the index"
            )


def _draw(path: Path, groups: Sequence[DuplicateGroup]) -> None:
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow
    from perception_encoder.cli.progress import draw_sheet

    def drawn(other: Duplicate) -> SheetHit:
        return SheetHit(partial(_read, other.row), other.score, f"{other.tier} {_name(other.row)}")

    rows = [
        SheetRow(
            [drawn(other) for other in group.others[:_SHEET_OTHERS]],
            text=_name(group.kept),
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


def _sum_up(found: Duplicates) -> None:
    for left_out in found.left_out:
        say(f"left out: {left_out.row.uri} {left_out.reason}")
    others = [other for group in found.groups for other in group.others]
    if not others:
        say(f"no duplicates among {found.num_images} images")
        return
    counts = Counter(other.tier for other in others)
    listed = ", ".join(f"{counts[tier]} {tier}" for tier in _TIERS.values() if counts[tier])
    megabytes = sum(other.row.bytes or 0 for other in others) / 1e6
    groups = "1 group" if len(found.groups) == 1 else f"{len(found.groups)} groups"
    say(
        f"{groups}: of {found.num_images} images {len(others)} are "
        f"redundant ({listed}), {megabytes:.1f} MB"
    )
    if found.num_crowded:
        say(
            f"{found.num_crowded} of the kept have too many images near them to look at all: "
            "when the redundant have gone and the index is up to date, run this again"
        )
