"""Find the models to measure, or create random weights for them. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from perception_encoder.backends.samples import load_drawings
from perception_encoder.bench.child import run_task
from perception_encoder.checkpoints import is_cached, locate
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.registry import ModelConfig, ModelEntry

_BYTES_OF_A_WEIGHT: Final = 4  # float32: what is read, or made up
_CAMERA_SIZE: Final = (4000, 3000)
_CAMERA_TILE: Final = 500
_CAMERA_NOISE: Final = 6  # levels: what a sensor adds, and what makes such files 3 to 5 MB


@dataclass(frozen=True)
class BenchSubject:
    """A model and where it is read from; `is_export` where it has graphs in place of weights."""

    name: str
    source: str
    config: ModelConfig
    entry: ModelEntry | None
    has_random_weights: bool = False
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
    return BenchSubject(entry.id, str(source), entry.config, entry, has_random_weights=True)


def is_installed(package: str) -> bool:
    """Tell whether a package is here, without importing it."""
    return importlib.util.find_spec(package) is not None


def _memory_bytes() -> int | None:
    """Return the machine's memory, or None where the system does not tell."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write_camera_image(path: Path) -> None:
    """Write a JPEG file of 12 megapixels: many drawings and a sensor's noise, quality 90."""
    width, height = _CAMERA_SIZE
    places = [(x, y) for y in range(0, height, _CAMERA_TILE) for x in range(0, width, _CAMERA_TILE)]
    image = Image.new("RGB", _CAMERA_SIZE)
    for place, data in zip(places, load_drawings(len(places)), strict=True):
        tile = Image.open(BytesIO(data)).convert("RGB").resize((_CAMERA_TILE, _CAMERA_TILE))
        image.paste(tile, place)
    noise = np.random.default_rng(0).normal(0, _CAMERA_NOISE, (height, width, 1))
    levels = (np.asarray(image) + noise.astype(np.float32)).clip(0, 255).astype(np.uint8)
    Image.fromarray(levels).save(path, "JPEG", quality=90)
