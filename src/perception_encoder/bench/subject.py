"""Finds what is to be measured, or makes weights up for it: nothing is downloaded."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perception_encoder.bench.child import run_task
from perception_encoder.checkpoints import is_cached, locate
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.registry import ModelConfig, ModelEntry

_BYTES_OF_A_WEIGHT: Final = 4  # float32: what is read, or made up


@dataclass(frozen=True)
class BenchSubject:
    """A model and where it is read from; `is_export` where it has graphs in place of weights."""

    name: str
    source: str
    config: ModelConfig
    entry: ModelEntry | None
    has_made_up_weights: bool = False
    is_export: bool = False


def find_subject(name: str, entry: ModelEntry | None, place: Path) -> BenchSubject:
    """Find a model's weights, or make some up in a folder.

    Raises:
        BackendUnavailableError: no weights can be made up here.
        CheckpointError: the path is no model's.
    """
    if entry is None:
        checkpoint = locate(name, local_files_only=True)
        is_export = checkpoint.graphs is not None
        return BenchSubject(name, name, checkpoint.config, checkpoint.entry, is_export=is_export)
    if is_cached(entry) is not None:
        return BenchSubject(entry.id, entry.id, entry.config, entry)
    needed, memory = _BYTES_OF_A_WEIGHT * entry.num_parameters, _memory_bytes()
    if memory is not None and needed > memory:
        raise BackendUnavailableError(
            f"its weights take {needed / 2**30:.1f} GiB, and this machine has "
            f"{memory / 2**30:.1f} GiB of memory"
        )
    source = place / "model"
    run_task("make_weights", {"model": entry.id, "folder": str(source)}, place)
    return BenchSubject(entry.id, str(source), entry.config, entry, has_made_up_weights=True)


def is_installed(package: str) -> bool:
    """Tell whether a package is here, without importing it."""
    return importlib.util.find_spec(package) is not None


def _memory_bytes() -> int | None:
    """Return the machine's memory, or None where the system does not tell."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
