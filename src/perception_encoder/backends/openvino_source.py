"""Where the OpenVINO engine's graphs come from: made of weights once and kept, or exported before.

Imports torch only when a graph has to be made.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from perception_encoder._version import __version__
from perception_encoder.backends.calibration_pictures import calibration_pictures
from perception_encoder.backends.graph_cache import GraphCache, KnownWeights
from perception_encoder.backends.known_weights import known_weights, read_weights, require_torch
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import CheckpointError, UnsupportedOperationError
from perception_encoder.registry import ModelConfig
from perception_encoder.types import Precision

if TYPE_CHECKING:
    from perception_encoder.model import DualEncoder

logger = logging.getLogger(__name__)

_FILE: Final = "graph.xml"
_STORED: Final[dict[Precision, Precision]] = {"bf16": "fp16"}  # the same file serves both
_SOURCES: Final = (  # what decides a graph, beside versions
    "model/blocks.py",
    "model/graphs.py",
    "model/rope.py",
    "model/text.py",
    "model/vision.py",
    "backends/calibration_pictures.py",
    "backends/openvino_int8.py",
    "backends/openvino_write.py",
)


class GraphSource(Protocol):
    """Gives the file of a graph; parts are those of `openvino_write.write_openvino`."""

    def __call__(self, part: str) -> Path:
        """Return the .xml file of a part; its weights lie beside it."""


@dataclass
class CachedGraphs:
    """A `GraphSource` that makes what the cache lacks.

    Args:
        cache: where graphs are kept.
        config: the model's numbers.
        known: its weights.
        precision: that graphs are run in.
        load: reads the weights, in float32.
    """

    cache: GraphCache
    config: ModelConfig
    known: KnownWeights
    precision: Precision
    load: Callable[[], "DualEncoder"]

    def __call__(self, part: str) -> Path:
        """See `GraphSource`.

        Raises:
            BackendUnavailableError: the graph has to be made, and torch or nncf is not installed.
            CheckpointError: the weights have changed since the model was opened.
        """
        stored = _STORED.get(self.precision, self.precision)
        decides = (self.config.to_dict(), version("openvino"), __version__, _sources())
        digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
        name = self.config.id.replace("/", "-")
        key = f"openvino/{name}-{self.known.fingerprint}-{stored}-{digest}"
        try:
            return self.cache.graph(key, part, lambda folder: self._make(folder, part)) / _FILE
        except OSError as err:
            logger.warning("graphs of %s cannot be kept, so opening it is slow: %s", name, err)
            folder = Path(tempfile.mkdtemp(prefix="perception-encoder-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._make(folder, part)
            return folder / _FILE

    def _make(self, folder: Path, part: str) -> None:
        require_torch()
        from perception_encoder.backends.openvino_write import with_halved_rotation, write_openvino

        model = with_halved_rotation(self.load())

        pictures = partial(calibration_pictures, self.config)
        write_openvino(model, folder / _FILE, part, self.precision, pictures)


@dataclass(frozen=True)
class ExportedGraphs:
    """A `GraphSource` of the files that an export holds.

    Args:
        folder: of the export.
    """

    folder: Path

    def __call__(self, part: str) -> Path:
        """See `GraphSource`.

        Raises:
            UnsupportedOperationError: the export has no such part.
        """
        path = self.folder / f"{part}.xml"
        if not path.is_file():
            raise UnsupportedOperationError(
                "an export gives the features of its last layer only; for others open the original "
                "weights"
            )
        return path


def graphs_of(
    checkpoint: Checkpoint, cache: GraphCache, precision: Precision
) -> tuple[CachedGraphs, KnownWeights]:
    """Return the graphs of a checkpoint; its weights are read only where they are not known yet.

    Raises:
        BackendUnavailableError: they are not known and torch is not installed.
        CheckpointError: the weights do not fit their model.
    """

    def load() -> "DualEncoder":
        model, found = read_weights(checkpoint)
        if found.fingerprint != known.fingerprint:
            raise CheckpointError(
                f"{checkpoint.path} was changed while the model was open; open it again"
            )
        return model

    known = known_weights(checkpoint, cache)
    return CachedGraphs(cache, checkpoint.config, known, precision, load), known


def graphs_of_random(
    config: ModelConfig, cache: GraphCache, precision: Precision
) -> tuple[CachedGraphs, KnownWeights]:
    """Return the graphs of a model with made-up weights, which are drawn anew each time.

    Raises:
        BackendUnavailableError: torch is not installed.
    """
    require_torch()
    from perception_encoder.checkpoints.fingerprint import weights_fingerprint
    from perception_encoder.checkpoints.load import logit_scale_of
    from perception_encoder.checkpoints.random_weights import random_model

    model = random_model(config)
    known = KnownWeights(weights_fingerprint(model), logit_scale_of(model))
    return CachedGraphs(cache, config, known, precision, lambda: random_model(config)), known


def _sources() -> str:
    """Name the code that makes graphs: between releases, a version says too little."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(files("perception_encoder").joinpath(name).read_bytes())
    return digest.hexdigest()
