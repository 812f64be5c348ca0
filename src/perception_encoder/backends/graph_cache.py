"""Graphs that a backend made of weights, kept on disk: whole, of these weights, or not there.

A folder for each set of weights, precision and version; in it a folder for each graph, put in place
by renaming. All may be deleted at any time; what nobody has opened for months is deleted when a
graph is made, for another version of a backend makes its own. Knows nothing of torch or backends.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perception_encoder.atomic import atomic_write
from perception_encoder.backends.graph_files import GraphFolder, checksums, is_whole, looks_whole
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import on_usable_thread
from perception_encoder.registry import ModelConfig

if TYPE_CHECKING:
    from perception_encoder.checkpoints.load import LoadedModel


logger = logging.getLogger(__name__)

GRAPH_FORMAT: Final = 1
"""Part of every graph's name. Raise it with each change to the code that builds graphs, so that
cached graphs are built again. A test compares that code with a stored digest."""

_RECORD: Final = "files.json"
_KEPT_SECONDS: Final = 60 * 24 * 3600  # after it was last opened


@dataclass(frozen=True, slots=True)
class KnownWeights:
    """What a file of weights is known to hold, without reading it again."""

    fingerprint: str
    logit_scale: float


def default_folder() -> Path:
    """Where graphs lie unless told otherwise: beside the hub's cache, which HF_HOME moves."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "perception-encoder"


class GraphCache:
    """A folder of graphs, safe for any number of processes; made when first written to."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()

    def known(self, weights: Path, config: ModelConfig) -> KnownWeights | None:
        """What was noted of a file of weights; None where it has changed since, or never was."""
        try:
            note = json.loads(self._note(weights, config).read_bytes())
            known = KnownWeights(**note["weights"])
            if note == _note_of(_stamp(weights), known):
                return known
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one
            pass
        return None

    def note(
        self, weights: Path, config: ModelConfig, stamp: list[int | str], known: KnownWeights
    ) -> None:
        """Note what a file of weights holds.

        Args:
            weights: the file.
            config: what it was read with.
            stamp: `stamp_of` it from before it was read; if it has changed since, nothing is noted.
            known: what was read.
        """
        with suppress(OSError):  # a folder that cannot be written only costs time
            if stamp == _stamp(weights):
                note = self._note(weights, config)
                note.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(note) as temporary:
                    temporary.write_text(json.dumps(_note_of(stamp, known)))

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

        folder = self._folder / key / name
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

    def _note(self, weights: Path, config: ModelConfig) -> Path:
        named = os.fsencode(weights.absolute()) + config.digest().encode()
        name = hashlib.sha256(named).hexdigest()[:16]
        return self._folder / "weights" / f"{name}.json"


def stamp_of(path: Path) -> list[int | str]:
    """What changes when a file does.

    The time of the last change of its entry is part of it, which copying tools cannot set back as
    they do the time of its content.

    Raises:
        OSError: no such file.
    """
    return _stamp(path)


def _stamp(path: Path) -> list[int | str]:
    status = path.stat()
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return [str(path.absolute()), *numbers]


def _note_of(stamp: list[int | str], known: KnownWeights) -> dict[str, object]:
    """A note with a checksum of its own: one digit of a fingerprint names other weights."""
    content = {"file": stamp, "weights": asdict(known)}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return {**content, "checksum": digest}


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


def known_weights(checkpoint: Checkpoint, cache: GraphCache) -> KnownWeights:
    """Return what a checkpoint is known to hold; what was read is noted.

    Raises:
        BackendUnavailableError: it is not known and torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    known = cache.known(checkpoint.path, checkpoint.config)
    if known is None:
        stamp = stamp_of(checkpoint.path)
        loaded = read_weights(checkpoint)
        known = KnownWeights(loaded.fingerprint, loaded.logit_scale)
        cache.note(checkpoint.path, checkpoint.config, stamp, known)
    return known


def read_weights(checkpoint: Checkpoint) -> "LoadedModel":
    """Read a checkpoint in float32.

    Raises:
        BackendUnavailableError: torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    require_torch()
    import torch

    from perception_encoder.checkpoints.load import load_model

    return on_usable_thread(lambda: load_model(checkpoint, dtype=torch.float32))


def require_torch() -> None:
    """Refuse where torch is missing.

    Raises:
        BackendUnavailableError: it is.
    """
    if importlib.util.find_spec("torch") is None:
        raise BackendUnavailableError(
            "torch is needed once, to make graphs of these weights: "
            "pip install 'perception-encoder[cpu]'"
        )
