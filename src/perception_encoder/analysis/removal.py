"""What a person may do with redundant pictures: a script to read and run, or moving them away.

Nothing is deleted here, and nothing is overwritten. Pictures inside archives and at URLs stay.
Knows nothing of tables: rows of what was moved are there until the table is brought up to date.
"""

import errno
import json
import os
import shlex
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from perception_encoder.analysis.duplicates import Duplicate, DuplicateGroup
from perception_encoder.index import Row

MANIFEST: Final = "moved.jsonl"

_HEAD: Final = """\
#!/bin/sh
# Redundant pictures that `pe duplicates` found. Nothing has been removed yet: read this, delete the
# lines you do not want, and run it with sh. A line acts only while the picture to keep is there.
"""


@dataclass(frozen=True)
class Move:
    """A redundant picture's way: `target` is empty where `problem` says why it stays."""

    source: str
    target: str
    kept: Row
    problem: str = ""


def can_be_removed(row: Row) -> bool:
    """Whether the picture is a file of its own on this machine."""
    return row.member is None and "://" not in row.uri


def removal_script(groups: Sequence[DuplicateGroup]) -> str:
    """Return a shell script that would remove the redundant pictures, each by a line of its own."""
    lines = [_HEAD]
    for group in groups:
        kept = group.kept
        facts = f"{kept.width or '?'} x {kept.height or '?'}, {kept.bytes or '?'} bytes"
        lines.append(f"\n# keep: {_in_comment(kept.name)} ({facts})\n")
        lines += [_removal(kept, other) for other in group.others]
    return "".join(lines)


def move_redundant(
    groups: Sequence[DuplicateGroup], folder: str, *, dry_run: bool = False
) -> Iterator[Move]:
    """Move redundant pictures into a folder, and yield what became of each.

    A picture keeps its name, with a number where that is taken. Before each move a line is added to
    the folder's `moved.jsonl`: from, to, kept, tier, score; where `from` still exists the move did
    not happen.

    Args:
        groups: what was found.
        folder: made where it does not exist.
        dry_run: touch nothing, and yield what would be done.

    Raises:
        OSError: the folder or its manifest cannot be written.
    """
    folder = os.path.abspath(folder)
    taken: set[str] = {os.path.join(folder, MANIFEST)}
    if not dry_run:
        os.makedirs(folder, exist_ok=True)
    for group in groups:
        for other in group.others:
            problem = _obstacle(group.kept, other.row, folder)
            if problem:
                yield Move(other.row.uri, "", group.kept, problem)
                continue
            target = _free_name(folder, os.path.basename(other.row.uri), taken)
            taken.add(target)
            if not dry_run:
                problem = _move(group.kept, other, target)
            yield Move(other.row.uri, "" if problem else target, group.kept, problem)


def _removal(kept: Row, other: Duplicate) -> str:
    why = f"{other.tier}, {other.score:.4f}"
    name = _in_comment(other.row.name)
    if not can_be_removed(other.row):
        return f"# in an archive or at a URL, stays: {name} ({why})\n"
    if any(map(_is_control, kept.uri + other.row.uri)):  # a line break would end the line
        return f"# control characters in a name, remove by hand: {name} ({why})\n"
    guard = "" if "://" in kept.uri else f"[ -f {shlex.quote(kept.uri)} ] && "
    return f"{guard}rm -- {shlex.quote(other.row.uri)}  # {why}\n"


def _in_comment(text: str) -> str:
    return "".join(ascii(sign)[1:-1] if _is_control(sign) else sign for sign in text)


def _is_control(sign: str) -> bool:
    """Whether it may end a line or hide what stands in it."""
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp")


def _obstacle(kept: Row, row: Row, folder: str) -> str:
    """Say why a picture stays where it is."""
    if not can_be_removed(row):
        return "is in an archive or at a URL"
    if "://" not in kept.uri and not os.path.exists(kept.uri):
        return f"is needed: {kept.uri} has gone"
    if os.path.realpath(os.path.dirname(row.uri)) == os.path.realpath(folder):
        return "is in that folder already"
    return ""


def _free_name(folder: str, name: str, taken: set[str]) -> str:
    stem, suffix = os.path.splitext(name)
    target, number = os.path.join(folder, name), 1
    while target in taken or os.path.lexists(target):
        number += 1
        target = os.path.join(folder, f"{stem} ({number}){suffix}")
    return target


def _move(kept: Row, other: Duplicate, target: str) -> str:
    """Move one file; return what prevented it."""
    record = {
        "from": other.row.uri,
        "to": target,
        "kept": {"uri": kept.uri, "member": kept.member},
        "tier": other.tier,
        "score": other.score,
    }
    manifest = os.path.join(os.path.dirname(target), MANIFEST)
    with open(manifest, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # Somebody may have taken the name just now: this fails then, and nothing is overwritten.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError as err:
        return f"cannot be moved: {err}"
    try:
        _replace(other.row.uri, target)
    except OSError as err:
        os.unlink(target)
        return f"cannot be moved: {err}"
    return ""


def _replace(source: str, target: str) -> None:
    """Put a file in the place of our empty one, also on another disk."""
    try:
        os.replace(source, target)
    except OSError as err:
        if err.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)
        with open(target, "rb") as copy:
            os.fsync(copy.fileno())
        os.unlink(source)
