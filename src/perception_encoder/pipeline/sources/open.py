"""From the names people give to sources: decides what each one is by its looks."""

import os
import sys
from collections.abc import Sequence
from typing import IO

from perception_encoder.errors import SourceNotFoundError
from perception_encoder.pipeline.sources.files import file_item
from perception_encoder.pipeline.sources.folder import FolderSource
from perception_encoder.pipeline.sources.item import Item, Source
from perception_encoder.pipeline.sources.lists import ListSource, NamedSource
from perception_encoder.pipeline.sources.options import SourceOptions
from perception_encoder.pipeline.sources.select import MAGIC, Excludes, Selection

_STDIN = "-"


def open_sources(
    names: Sequence[str], options: SourceOptions, stdin: IO[bytes] | None = None
) -> list[Source]:
    """Find out what each name is.

    A name is a folder, a picture, a list of names on standard input (`-`), or a glob. What exists
    under just that name wins over a pattern.

    Args:
        names: as people write them.
        options: how to read them.
        stdin: what `-` reads; sys.stdin by default.

    Returns:
        The sources in the order of their names. Pictures that are named one after the other are
        one source.

    Raises:
        SourceNotFoundError: there is no such file or folder.
    """
    opened: list[Source] = []
    files: list[str] = []
    for name in names:
        if os.path.isfile(name):
            files.append(os.path.abspath(name))
            continue
        if files:
            opened.append(NamedSource(files, file_item))
            files = []
        opened.append(_open(name, options, stdin))
    if files:
        opened.append(NamedSource(files, file_item))
    return opened


def _open(name: str, options: SourceOptions, stdin: IO[bytes] | None) -> Source:
    if name == _STDIN:
        stream = sys.stdin.buffer if stdin is None else stdin
        return ListSource(stream, _listed, null_separated=options.null_separated)
    excludes = Excludes(options.exclude)
    if os.path.isdir(name):
        return FolderSource(name, name, Selection(excludes, options.include_hidden))
    if MAGIC.search(name):
        top, glob = _split_glob(name)
        if os.path.isdir(top or "."):
            hidden = options.include_hidden or "/." in f"/{glob}"
            return FolderSource(name, top, Selection(excludes, hidden, glob))
    raise SourceNotFoundError(f"{name}: no such file or folder; check the path")


def _listed(name: str) -> Item:
    return file_item(os.path.abspath(name))


def _split_glob(pattern: str) -> tuple[str, str]:
    """Split a glob into the folder that holds all matches and the rest."""
    parts = os.path.expanduser(pattern).split("/")
    count = next(number for number, part in enumerate(parts) if MAGIC.search(part))
    glob = "/".join(part for part in parts[count:] if part)
    return "/".join(parts[:count]) + ("/" if parts[:count] == [""] else ""), glob
