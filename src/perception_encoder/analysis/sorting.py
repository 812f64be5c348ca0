"""Moves pictures into a folder for each label. Pictures inside archives and at URLs stay.

Knows nothing of models or tables: rows of what was moved are in a table until it is brought up to
date.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from perception_encoder.analysis.moving import MANIFEST, can_be_moved, free_name, move_file
from perception_encoder.analysis.zero_shot import LabelScore
from perception_encoder.index import Row

_NOT_IN_NAMES: Final = re.compile(r"[/\\\0]|^\.")


@dataclass(frozen=True)
class SortedFile:
    """A picture's way: `target` is empty where `problem` says why it stays."""

    source: str
    target: str
    label: str
    problem: str = ""


def sort_into(
    folder: str, labelled: Iterable[tuple[Row, LabelScore]], *, dry_run: bool = False
) -> Iterator[SortedFile]:
    """Move pictures into folders that are named as their labels, and yield what became of each.

    A picture keeps its name, with a number where that is taken. Before each move a line is added to
    the folder's `moved.jsonl`: from, to, label, probability; where `from` still exists the move did
    not happen.

    Args:
        folder: holds the labels' folders; made where it does not exist.
        labelled: pictures with their labels.
        dry_run: touch nothing, and yield what would be done.

    Raises:
        OSError: the manifest cannot be written.
    """
    folder = os.path.abspath(folder)
    taken = set[str]()
    for row, best in labelled:
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
    """Say why a picture stays where it is."""
    if not can_be_moved(row):
        return "is in an archive or at a URL"
    if os.path.islink(row.uri):
        return "is a link to another file"
    if not os.path.exists(row.uri):
        return "has gone"
    if os.path.realpath(os.path.dirname(row.uri)) == os.path.realpath(home):
        return "is in that folder already"
    return ""
