"""What a person may do with redundant images: a script to read and run, or moving them away.

Nothing is deleted here, and nothing is overwritten. Images inside archives and at URLs stay.
Knows nothing of indexes: rows of what was moved are there until the index is brought up to date.
"""

import os
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from perception_encoder.analysis.duplicates import Duplicate, DuplicateGroup
from perception_encoder.analysis.moving import MANIFEST, can_be_moved, free_name, move_file
from perception_encoder.index import Row

_REVERSING: Final = frozenset(
    ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # of text's direction
)
_HEAD: Final = """\
#!/bin/sh
# Redundant images that `pe duplicates` found. Nothing has been removed yet: read this, delete the
# lines you do not want, and run it with sh. A line acts only while the image to keep is there.
"""


@dataclass(frozen=True)
class Move:
    """A redundant image's way: `target` is empty where `problem` says why it stays."""

    source: str
    target: str
    kept: Row
    problem: str = ""


def removal_script(groups: Sequence[DuplicateGroup]) -> str:
    """Return a shell script that would remove the redundant images, each by a line of its own."""
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
    """Move redundant images into a folder, and yield what became of each.

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
            problem = _obstacle(group.kept, other.row, folder)
            if problem:
                yield Move(other.row.uri, "", group.kept, problem)
                continue
            target = free_name(folder, os.path.basename(other.row.uri), taken)
            if not dry_run:
                why = {
                    "kept": {"uri": group.kept.uri, "member": group.kept.member},
                    "tier": other.tier,
                    "score": other.score,
                }
                problem = move_file(other.row.uri, target, manifest, why)
            yield Move(other.row.uri, "" if problem else target, group.kept, problem)


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


def _obstacle(kept: Row, row: Row, folder: str) -> str:
    """Say why an image stays where it is."""
    if not can_be_moved(row):
        return "is in an archive or at a URL"
    if "://" not in kept.uri and not os.path.exists(kept.uri):
        return f"is needed: {kept.uri} has gone"
    if os.path.realpath(os.path.dirname(row.uri)) == os.path.realpath(folder):
        return "is in that folder already"
    return ""
