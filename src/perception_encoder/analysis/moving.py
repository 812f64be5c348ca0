"""Moves files into a folder so that every move can be undone, and nothing is overwritten.

Each move is written down before it is made. Knows nothing of why files are moved.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from perception_encoder.analysis.zero_shot import LabelScore
from perception_encoder.index import Row

MANIFEST: Final = "moved.jsonl"
_NOT_IN_NAMES: Final = re.compile(r"[/\\\0]|^\.")


def can_be_moved(row: Row) -> bool:
    """Whether the image is a file of its own on this machine."""
    return row.member is None and "://" not in row.uri


def free_name(folder: str, name: str, taken: set[str]) -> str:
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
    """Move one file, also to another disk.

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


def sort_into(
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
        problem = _obstacle(row, home)
        if problem:
            yield SortedFile(row.name, "", best.label, problem)
            continue
        target = free_name(home, os.path.basename(row.uri), taken)
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


def _obstacle(row: Row, home: str) -> str:
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
