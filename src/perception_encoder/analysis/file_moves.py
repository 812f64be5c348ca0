"""Moves images into folders by label or as duplicates, or writes a script that removes duplicates.

Nothing is deleted or overwritten. Each move is recorded in the folder's `moved.jsonl` before it is
made, so every move can be undone. Images inside archives and at URLs stay where they are.
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
_REVERSING: Final = frozenset(  # Unicode's classes of characters that reverse the direction of text
    ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
)
_HEAD: Final = """\
#!/bin/sh
# Redundant images that `pe duplicates` found. Nothing has been removed yet: read this, delete the
# lines you do not want, and run it with sh. A line acts only while the image to keep is there.
"""


@dataclass(frozen=True)
class SortedFile:
    """An image and its new path; `target` is empty where `error` says why it stays."""

    source: str
    target: str
    label: str
    error: str = ""


@dataclass(frozen=True)
class MovedDuplicate:
    """A duplicate and its new path; `target` is empty where `error` says why it stays."""

    source: str
    target: str
    kept: Row
    error: str = ""


def sort_files(
    folder: str, labeled: Iterable[tuple[Row, LabelScore]], *, dry_run: bool = False
) -> Iterator[SortedFile]:
    """Move images into folders that are named after their labels.

    An image keeps its name; a number is added where the name is taken. Lines of the manifest have
    from, to, label and probability.

    Args:
        folder: holds the labels' folders; it is created if it does not exist.
        labeled: images with their labels.
        dry_run: change nothing, and yield what would be done.

    Raises:
        OSError: the manifest cannot be written.
    """
    folder = os.path.abspath(folder)
    taken = set[str]()
    for row, best in labeled:
        home = os.path.join(folder, _NOT_IN_NAMES.sub("_", best.label))
        error = _find_sorting_error(row, home)
        if error:
            yield SortedFile(row.name, "", best.label, error)
            continue
        target = choose_free_name(home, os.path.basename(row.uri), taken)
        if not dry_run and not (error := _make_folder(home)):
            fields = {"label": best.label, "probability": best.probability}
            error = move_file(row.uri, target, os.path.join(folder, MANIFEST), fields)
        yield SortedFile(row.uri, "" if error else target, best.label, error)


def move_duplicates(
    groups: Sequence[DuplicateGroup], folder: str, *, dry_run: bool = False
) -> Iterator[MovedDuplicate]:
    """Move duplicates into a folder. The index keeps their rows until it is updated.

    An image keeps its name; a number is added where the name is taken. Lines of the manifest have
    from, to, kept, tier and score.

    Args:
        groups: the duplicates.
        folder: it is created if it does not exist.
        dry_run: change nothing, and yield what would be done.

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
            error = _find_moving_error(group.kept, other.row, folder)
            if error:
                yield MovedDuplicate(other.row.uri, "", group.kept, error)
                continue
            target = choose_free_name(folder, os.path.basename(other.row.uri), taken)
            if not dry_run:
                fields = {
                    "kept": {"uri": group.kept.uri, "member": group.kept.member},
                    "tier": other.tier,
                    "score": other.score,
                }
                error = move_file(other.row.uri, target, manifest, fields)
            yield MovedDuplicate(other.row.uri, "" if error else target, group.kept, error)


def build_removal_script(groups: Sequence[DuplicateGroup]) -> str:
    """Return a shell script that removes duplicates, one a line."""
    lines = [_HEAD]
    for group in groups:
        kept = group.kept
        fields = f"{kept.width or '?'} x {kept.height or '?'}, {kept.bytes or '?'} bytes"
        lines.append(f"\n# keep: {_escape(kept.name)} ({fields})\n")
        lines += [_build_removal(kept, other) for other in group.others]
    return "".join(lines)


def can_be_moved(row: Row) -> bool:
    """Whether the image is a file of its own on this machine."""
    return row.member is None and "://" not in row.uri


def choose_free_name(folder: str, name: str, taken: set[str]) -> str:
    """Return a path in a folder that no file has; a number is added to a name that is taken.

    Args:
        folder: of the path.
        name: of the file.
        taken: further paths that are taken; the returned one is added.
    """
    stem, suffix = os.path.splitext(name)
    target, number = os.path.join(folder, name), 1
    while target in taken or os.path.lexists(target):
        number += 1
        target = os.path.join(folder, f"{stem} ({number}){suffix}")
    taken.add(target)
    return target


def move_file(source: str, target: str, manifest: str, fields: Mapping[str, Any]) -> str:
    """Move one file, also to another disk.

    Args:
        source: the file.
        target: its new path, where no file may be.
        manifest: a file of JSON lines. A line with `from`, `to` and the fields is added first; if
            `from` still exists later, the move did not happen.
        fields: what else the line holds.

    Returns:
        Why the file was not moved; empty if it was.

    Raises:
        OSError: the manifest cannot be written.
    """
    record = {"from": source, "to": target, **fields}
    _append(manifest, (json.dumps(record, ensure_ascii=False) + "\n").encode())
    try:
        # Fails if the name has been taken since, so that nothing is overwritten.
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
    """Append a line and flush it to the disk; on a full disk nothing of it is left."""
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
    """As `os.replace`, also between disks."""
    try:
        os.replace(source, target)
    except OSError as err:
        if err.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)
        with open(target, "rb") as copy:
            os.fsync(copy.fileno())
        os.unlink(source)


def _make_folder(folder: str) -> str:
    """Create a folder; return why it cannot be created, such as a label that is too long."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as err:
        return f"cannot be moved: {err}"
    return ""


def _find_sorting_error(row: Row, home: str) -> str:
    if not can_be_moved(row):
        return "is in an archive or at a URL"
    if os.path.islink(row.uri):
        return "is a link to another file"
    if not os.path.exists(row.uri):
        return "has gone"
    return _find_folder_error(row, home)


def _find_moving_error(kept: Row, row: Row, folder: str) -> str:
    if not can_be_moved(row):
        return "is in an archive or at a URL"
    if "://" not in kept.uri and not os.path.exists(kept.uri):
        return f"is needed: {kept.uri} has gone"
    return _find_folder_error(row, folder)


def _find_folder_error(row: Row, folder: str) -> str:
    if os.path.realpath(os.path.dirname(row.uri)) == os.path.realpath(folder):
        return "is in that folder already"
    return ""


def _build_removal(kept: Row, other: Duplicate) -> str:
    reason = f"{other.tier}, {other.score:.4f}"
    name = _escape(other.row.name)
    if not can_be_moved(other.row):
        return f"# in an archive or at a URL, stays: {name} ({reason})\n"
    if any(map(_is_unsafe, kept.uri + other.row.uri)):  # a line break would end the line
        return f"# control characters in a name, remove by hand: {name} ({reason})\n"
    guard = "" if "://" in kept.uri else f"[ -f {shlex.quote(kept.uri)} ] && "
    return f"{guard}rm -- {shlex.quote(other.row.uri)}  # {reason}\n"


def _escape(text: str) -> str:
    return "".join(ascii(sign)[1:-1] if _is_unsafe(sign) else sign for sign in text)


def _is_unsafe(sign: str) -> bool:
    """Whether a character may end a line, or hide or reverse text."""
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp") or (
        unicodedata.bidirectional(sign) in _REVERSING
    )
