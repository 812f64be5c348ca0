"""A cache of graphs that were built from weights: each is whole, and of these weights, or absent.

There is a folder for each set of weights, precision and version, and in it a folder for each graph,
put in place by renaming. All can be deleted at any time. Folders that were not opened for months
are deleted when a graph is built.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from perception_encoder.atomic import atomic_write
from perception_encoder.backends.graph_files import GraphFolder, checksums, is_whole, looks_whole
from perception_encoder.checkpoints.known_weights import default_cache_folder

logger = logging.getLogger(__name__)

GRAPH_FORMAT: Final = 1
"""Part of every graph's name. Raise it with each change to the code that builds graphs, so that
cached graphs are built again. A test compares that code with a stored digest."""

_RECORD: Final = "files.json"
_KEPT_SECONDS: Final = 60 * 24 * 3600  # after it was last opened


class GraphCache:
    """A folder of graphs, safe for any number of processes; made when first written to."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = folder or default_cache_folder()

    def folder(self, key: str, name: str, build: Callable[[Path], None]) -> GraphFolder:
        """Return a graph's files, which are compared with their checksums when they are opened.

        Arguments and errors are those of `graph`.
        """
        folder = self.graph(key, name, build)

        def repair() -> None:
            logger.warning("%s was damaged and is made anew", folder)
            self.graph(key, name, build, thorough=True)

        return GraphFolder(folder, lambda: _record_of(folder), repair)

    def graph(
        self, key: str, name: str, build: Callable[[Path], None], *, thorough: bool = False
    ) -> Path:
        """Return the folder of a graph, built first where it is missing or looks damaged.

        Args:
            key: names the weights, the precision and all versions that decide.
            name: of the graph.
            build: writes the graph's files into a folder.
            thorough: read large files, too, before they are taken for whole.

        Raises:
            OSError: the folder cannot be written.
        """
        from filelock import FileLock

        folder = self.path / key / name
        if not thorough and _is_whole(folder):
            with suppress(OSError):  # somebody else's folder
                os.utime(folder.parent)
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            if not _is_whole(
                folder, thorough=thorough
            ):  # another process may have built it meanwhile
                logger.info("making %s, once", folder)
                _remove_unused(folder.parent)
                _build(folder, build)
        return folder


def _remove_unused(kept: Path) -> None:
    """Remove the folders beside this one that nobody has opened for long."""
    for other in kept.parent.iterdir():
        with suppress(OSError):  # somebody else's, or being removed by another process
            if other != kept and time.time() - other.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(other)


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed: gigabytes
        shutil.rmtree(left, ignore_errors=True)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        build(temporary)
        (temporary / _RECORD).write_text(json.dumps(checksums(temporary)))
        if folder.exists():  # damaged; processes that have it open keep what is mapped
            shutil.rmtree(folder)


def _is_whole(folder: Path, *, thorough: bool = False) -> bool:
    record = _record_of(folder)
    return bool(record) and (is_whole if thorough else looks_whole)(folder, record)


def _record_of(folder: Path) -> dict[str, str]:
    """Return the checksums of a graph's files; none where they cannot be told."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    is_usable = isinstance(record, dict) and all(isinstance(told, str) for told in record.values())
    return record if is_usable else {}
