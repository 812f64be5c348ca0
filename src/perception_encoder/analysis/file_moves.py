"""Moves files into a folder so that every move can be undone, and nothing is overwritten.

Each move is written down before it is made. Knows nothing of why files are moved.
"""

import errno
import json
import os
import re
import shlex
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from perception_encoder.analysis.classifiers import LabelScore
from perception_encoder.analysis.duplicates import Duplicate, DuplicateGroup
from perception_encoder.index import Row

MANIFEST: Final = "moved.jsonl"
_NOT_IN_NAMES: Final = re.compile(r"[/\\\0]|^\.")
_REVERSING: Final = frozenset(
    ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # of text's direction
)
_HEAD: Final = """\
#!/bin/sh
# Redundant images that `pe duplicates` found. Nothing has been removed yet: read this, delete the
# lines you do not want, and run it with sh. A line acts only while the image to keep is there.
"""


def can_be_moved(row: Row) -> bool:
    """Whether the image is a file of its own on this machine."""
    return row.member is None and "://" not in row.uri


def choose_free_name(folder: str, name: str, taken: set[str]) -> str:
    """Return a path for a file of that name, with a number in it where the name is taken.

    Args:
        folder: where it will be.
        name: that it has.
        taken: paths that are spoken for; the returned one is added.
    """
    stem, suffix = os.path.splitext(name)
    target, number = os.path.join(folder, name), 1
    while target in taken or os.path.lexists(target):
        number += 1
        target = os.path.join(folder, f"{stem} ({number}){suffix}")
    taken.add(target)
    return target


def move_file(source: str, target: str, manifest: str, why: Mapping[str, Any]) -> str:
    """MovedDuplicate one file, also to another disk.

    Args:
        source: the file.
        target: its new path; nothing may be there.
        manifest: a file of JSON lines, which gets one with `from`, `to` and the reasons first:
            where `from` still exists the move did not happen.
        why: what else the line says.

    Returns:
        What prevented it, or nothing.

    Raises:
        OSError: the manifest cannot be written.
    """
    record = {"from": source, "to": target, **why}
    _append(manifest, (json.dumps(record, ensure_ascii=False) + "\n").encode())
    try:
        # Somebody may have taken the name just now: this fails then, and nothing is overwritten.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError as err:
        return f"cannot be moved: {err}"
    try:
        _replace(source, target)
    except OSError as err:
        os.unlink(target)
        return f"cannot be moved: {err}"
    return ""


def _append(path: str, line: bytes) -> None:
    """Add a line to a file and see it on the disk; on a full disk nothing of it is left."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


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


@dataclass(frozen=True)
class SortedFile:
    """An image's way: `target` is empty where `problem` says why it stays."""

    source: str
    target: str
    label: str
    problem: str = ""


def sort_files(
    folder: str, labeled: Iterable[tuple[Row, LabelScore]], *, dry_run: bool = False
) -> Iterator[SortedFile]:
    """Move images into folders that are named as their labels, and yield what became of each.

    An image keeps its name, with a number where that is taken. Before each move a line is added to
    the folder's `moved.jsonl`: from, to, label, probability; where `from` still exists the move did
    not happen.

    Args:
        folder: holds the labels' folders; made where it does not exist.
        labeled: images with their labels.
        dry_run: touch nothing, and yield what would be done.

    Raises:
        OSError: the manifest cannot be written.
    """
    folder = os.path.abspath(folder)
    taken = set[str]()
    for row, best in labeled:
        home = os.path.join(folder, _NOT_IN_NAMES.sub("_", best.label))
        problem = _sorting_obstacle(row, home)
        if problem:
            yield SortedFile(row.name, "", best.label, problem)
            continue
        target = choose_free_name(home, os.path.basename(row.uri), taken)
        if not dry_run and not (problem := _made(home)):
            why = {"label": best.label, "probability": best.probability}
            problem = move_file(row.uri, target, os.path.join(folder, MANIFEST), why)
        yield SortedFile(row.uri, "" if problem else target, best.label, problem)


def _made(folder: str) -> str:
    """Make a folder, or say why it cannot be: a label may be too long for a name."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as err:
        return f"cannot be moved: {err}"
    return ""


def _sorting_obstacle(row: Row, home: str) -> str:
    """Say why an image stays where it is."""
    if not can_be_moved(row):
        return "is in an archive or at a URL"
    if os.path.islink(row.uri):
        return "is a link to another file"
    if not os.path.exists(row.uri):
        return "has gone"
    if os.path.realpath(os.path.dirname(row.uri)) == os.path.realpath(home):
        return "is in that folder already"
    return ""


@dataclass(frozen=True)
class MovedDuplicate:
    """A redundant image's way: `target` is empty where `problem` says why it stays."""

    source: str
    target: str
    kept: Row
    problem: str = ""


def build_removal_script(groups: Sequence[DuplicateGroup]) -> str:
    """Return a shell script that would remove the redundant images, each by a line of its own."""
    lines = [_HEAD]
    for group in groups:
        kept = group.kept
        facts = f"{kept.width or '?'} x {kept.height or '?'}, {kept.bytes or '?'} bytes"
        lines.append(f"\n# keep: {_in_comment(kept.name)} ({facts})\n")
        lines += [_removal(kept, other) for other in group.others]
    return "".join(lines)


def move_duplicates(
    groups: Sequence[DuplicateGroup], folder: str, *, dry_run: bool = False
) -> Iterator[MovedDuplicate]:
    """MovedDuplicate redundant images into a folder, and yield what became of each.

    An image keeps its name, with a number where that is taken. Before each move a line is added to
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
    manifest = os.path.join(folder, MANIFEST)
    taken = {manifest}
    if not dry_run:
        os.makedirs(folder, exist_ok=True)
    for group in groups:
        for other in group.others:
            problem = _removal_obstacle(group.kept, other.row, folder)
            if problem:
                yield MovedDuplicate(other.row.uri, "", group.kept, problem)
                continue
            target = choose_free_name(folder, os.path.basename(other.row.uri), taken)
            if not dry_run:
                why = {
                    "kept": {"uri": group.kept.uri, "member": group.kept.member},
                    "tier": other.tier,
                    "score": other.score,
                }
                problem = move_file(other.row.uri, target, manifest, why)
            yield MovedDuplicate(other.row.uri, "" if problem else target, group.kept, problem)


def _removal(kept: Row, other: Duplicate) -> str:
    why = f"{other.tier}, {other.score:.4f}"
    name = _in_comment(other.row.name)
    if not can_be_moved(other.row):
        return f"# in an archive or at a URL, stays: {name} ({why})\n"
    if any(map(_is_control, kept.uri + other.row.uri)):  # a line break would end the line
        return f"# control characters in a name, remove by hand: {name} ({why})\n"
    guard = "" if "://" in kept.uri else f"[ -f {shlex.quote(kept.uri)} ] && "
    return f"{guard}rm -- {shlex.quote(other.row.uri)}  # {why}\n"


def _in_comment(text: str) -> str:
    return "".join(ascii(sign)[1:-1] if _is_control(sign) else sign for sign in text)


def _is_control(sign: str) -> bool:
    """Whether it may end a line, or hide or reverse what stands in it."""
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp") or (
        unicodedata.bidirectional(sign) in _REVERSING
    )


def _removal_obstacle(kept: Row, row: Row, folder: str) -> str:
    """Say why an image stays where it is."""
    if not can_be_moved(row):
        return "is in an archive or at a URL"
    if "://" not in kept.uri and not os.path.exists(kept.uri):
        return f"is needed: {kept.uri} has gone"
    if os.path.realpath(os.path.dirname(row.uri)) == os.path.realpath(folder):
        return "is in that folder already"
    return ""
