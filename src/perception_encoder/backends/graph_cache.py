"""A cache of graphs that were built from weights, with checksums of every file.

There is a folder for each set of weights, precision and version, and in it a folder for each graph,
put in place by renaming. All can be deleted at any time. Folders that were not opened for months
are deleted when a graph is built. A graph with damaged weights opens without an error and computes
other embeddings, so all of its bytes are compared: large files on a thread while it is opened.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from perception_encoder.atomic import atomic_write
from perception_encoder.checkpoints.known_weights import default_cache_folder
from perception_encoder.checkpoints.tensors import WatchedFile
from perception_encoder.errors import CheckpointError

logger = logging.getLogger(__name__)

GRAPH_FORMAT: Final = 3
"""Part of every graph's name. Raise it with each change to the code that builds graphs, so that
cached graphs are built again. A test compares that code with a stored digest."""

_RECORD: Final = "files.json"
_KEPT_SECONDS: Final = 60 * 24 * 3600  # after it was last opened
DATA_SUFFIX: Final = ".data"  # of the file of weights beside an ONNX graph

_BLOCK_BYTES: Final = 1 << 20
_PAGE_WORDS: Final = 512
# Compared before a graph is opened: what describes a graph, which could crash a parser.
_SMALL_BYTES: Final = 16 << 20

_Graph = TypeVar("_Graph")


def checksum(path: Path) -> str:
    """Return the size of a file and a hash of all of its content.

    For speed (5 GB/s where CRC-32 has 1.3) the hash is of the sums of each page's 64-bit words and
    of the sums across the pages of a block: any change within one word changes it, and so does
    moving one elsewhere.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    block = np.empty(_BLOCK_BYTES, np.uint8)
    words = block.view(np.uint64).reshape(-1, _PAGE_WORDS)
    size = 0
    with path.open("rb") as file:
        while count := file.readinto(block.data):
            block[count:] = 0
            digest.update(words.sum(axis=0).data)
            digest.update(words.sum(axis=1).data)
            size += count
    return f"{size}:{digest.hexdigest()[:32]}"


def checksums(folder: Path) -> dict[str, str]:
    """Return the checksum of every file of a folder, by name."""
    return {path.name: checksum(path) for path in sorted(folder.iterdir())}


def is_whole(folder: Path, expected: Mapping[str, str], names: Sequence[str] | None = None) -> bool:
    """Whether all bytes of these files (None for all) are what they were."""
    try:
        return all(checksum(folder / name) == expected[name] for name in names or expected)
    except (OSError, KeyError):
        return False


def looks_whole(folder: Path, expected: Mapping[str, str]) -> bool:
    """As `is_whole`, of large files only the size: they are read while a graph is opened."""
    try:
        sizes = {name: (folder / name).stat().st_size for name in expected}
    except OSError:
        return False
    has_sizes = all(expected[name].startswith(f"{size}:") for name, size in sizes.items())
    small = [name for name, size in sizes.items() if size <= _SMALL_BYTES]
    return has_sizes and (not small or is_whole(folder, expected, small))


@dataclass(frozen=True)
class GraphFolder:
    """Files of graphs in one folder.

    Attributes:
        path: the folder.
        recorded: returns the checksums of its files; none for exports of earlier versions.
        repair: makes a damaged folder anew; None where nobody can.
    """

    path: Path
    recorded: Callable[[], Mapping[str, str]]
    repair: Callable[[], None] | None = None

    def opened(
        self, names: Sequence[str], open_graph: Callable[[], _Graph]
    ) -> tuple[_Graph, list[WatchedFile]]:
        """Open a graph, repaired first where one of its files is damaged.

        Args:
            names: of the graph's files.
            open_graph: reads them.

        Returns:
            The graph, and its files, to be checked whenever it is used.

        Raises:
            CheckpointError: a file is missing, or damaged and cannot be made anew.
        """
        found = self._opened(names, open_graph)
        if found is None:
            if self.repair is None:
                raise CheckpointError(
                    f"{self.path}: {' or '.join(names)} is damaged: not the bytes that were "
                    "exported. Export the model again, or copy the folder again"
                )
            self.repair()
            found = self._opened(names, open_graph)
        if found is None:
            raise CheckpointError(f"{self.path}: made anew, and damaged again. Check the disk")
        return found

    def _opened(
        self, names: Sequence[str], open_graph: Callable[[], _Graph]
    ) -> tuple[_Graph, list[WatchedFile]] | None:
        recorded = self.recorded()
        expected = {name: recorded[name] for name in names if name in recorded}
        is_recorded = len(expected) == len(names) or (not recorded and self.repair is None)
        if not is_recorded or not looks_whole(self.path, expected):
            return None
        watched = [WatchedFile(self.path / name) for name in names]
        large = [name for name, known in expected.items() if _size_of(known) > _SMALL_BYTES]
        check = _started(lambda: is_whole(self.path, expected, large)) if large else None
        try:
            graph = open_graph()
        except Exception:  # whatever a backend makes of damaged weights
            if check is None or check.result():
                raise
            return None
        return (graph, watched) if check is None or check.result() else None


def _size_of(known: str) -> int:
    return int(known.partition(":")[0])


def _started(check: Callable[[], bool]) -> Future[bool]:
    """Run a check on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(check)
    pool.shutdown(wait=False)
    return future


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
            logger.warning("%s is damaged and is built again", folder)
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
                logger.info("building %s, once", folder)
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
