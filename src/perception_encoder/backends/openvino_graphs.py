"""Where OpenVINO graphs come from: a cache that builds what it lacks, or an exported folder.

torch is imported only if a graph has to be built.
"""

import hashlib
import importlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder._version import __version__
from perception_encoder.backends.graph_cache import GRAPH_FORMAT, GraphCache, GraphFolder
from perception_encoder.backends.samples import iter_calibration_images
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.known_weights import (
    KnownWeights,
    identify_weights,
    read_weights,
    require_torch,
)
from perception_encoder.checkpoints.tensors import WatchedFile, require_unchanged
from perception_encoder.errors import CheckpointError, UnsupportedOperationError
from perception_encoder.forking import run_on_usable_thread
from perception_encoder.registry import ModelConfig, VisionConfig
from perception_encoder.types import Precision

if TYPE_CHECKING:
    import openvino as ov

    from perception_encoder.checkpoints.load import LoadedModel

logger = logging.getLogger(__name__)

_Compiled = TypeVar("_Compiled")

_FILE: Final = "graph.xml"
_WEIGHTS: Final = "graph.bin"
DENSE: Final = "dense"
"""The part "dense3" is the graph of `build_dense` for the layer 3."""
_STORED: Final[dict[Precision, Precision]] = {"bf16": "fp16"}  # the same file serves both


def import_without_telemetry(package: str) -> None:
    """Import OpenVINO or NNCF such that they find no `openvino_telemetry`.

    With that package they report their use to Google Analytics, unasked, from a forked process. It
    is hidden during the import only, so other code can import it before and after. Its own opt-out
    is a file in the user's home, which is not ours to write. NNCF also sets the class of all later
    loggers, and the level of its own; both are put back.
    """
    if package in sys.modules:  # the host program imported it, and decides about its reports
        return
    hidden = "openvino_telemetry" not in sys.modules
    logger_class = logging.getLoggerClass()
    # Not made here: it must be of NNCF's own class.
    known = package in logging.root.manager.loggerDict
    level = logging.getLogger(package).level if known else logging.NOTSET
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        importlib.import_module(package)
    finally:
        logging.setLoggerClass(logger_class)
        logging.getLogger(package).setLevel(level)
        if hidden:
            del sys.modules["openvino_telemetry"]


class GraphSource(Protocol):
    """Opens graphs; `build_openvino` lists the parts."""

    def opened(
        self, part: str, compiled: "Callable[[Path | ov.Model], _Compiled]"
    ) -> tuple[_Compiled, Sequence[WatchedFile]]:
        """Compile the graph of a part.

        Args:
            part: of the model.
            compiled: takes the .xml file, with its weights beside it, or the graph itself.

        Returns:
            The result of `compiled`, and the files that it may have mapped.
        """


@dataclass
class CachedGraphs:
    """A `GraphSource` that builds what the cache lacks.

    Args:
        cache: of graphs.
        config: of the model.
        known: its weights.
        precision: that graphs are run in.
        load: reads the weights, in float32.
    """

    cache: GraphCache
    config: ModelConfig
    known: KnownWeights
    precision: Precision
    load: "Callable[[], LoadedModel]"

    def opened(
        self, part: str, compiled: "Callable[[Path | ov.Model], _Compiled]"
    ) -> tuple[_Compiled, Sequence[WatchedFile]]:
        """See `GraphSource`.

        Raises:
            BackendUnavailableError: the graph has to be built, and torch or nncf is not installed.
            CheckpointError: the weights have changed since the model was opened.
        """
        stored = _STORED.get(self.precision, self.precision)
        decides = (self.config.to_dict(), version("openvino"), __version__, GRAPH_FORMAT)
        digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
        name = self.config.id.replace("/", "-")
        key = f"openvino/{name}-{self.known.fingerprint}-{stored}-{digest}"
        make = partial(self._make, part)
        try:
            graph = self.cache.folder(key, part, make)
            return graph.opened((_FILE, _WEIGHTS), lambda: compiled(graph.path / _FILE))
        except OSError as err:
            logger.warning("graphs of %s cannot be cached, so opening is slow: %s", name, str(err))
        with suppress(OSError):
            return self._opened_once(make, compiled)
        built, watched = self._build(part)
        return compiled(built), watched

    def _opened_once(
        self, make: Callable[[Path], None], compiled: "Callable[[Path | ov.Model], _Compiled]"
    ) -> tuple[_Compiled, Sequence[WatchedFile]]:
        """Compile from temporary files; what is mapped of them stays after their removal."""
        with tempfile.TemporaryDirectory(
            prefix="perception-encoder-", ignore_cleanup_errors=True
        ) as folder:
            make(Path(folder))
            files = GraphFolder(Path(folder), dict)
            return files.opened((_FILE, _WEIGHTS), lambda: compiled(Path(folder) / _FILE))

    def _make(self, part: str, folder: Path) -> None:
        graph, watched = self._build(part)
        from perception_encoder.backends.openvino_write import save_openvino

        with require_unchanged(watched):
            save_openvino(graph, folder / _FILE, self.precision)

    def _build(self, part: str) -> "tuple[ov.Model, Sequence[WatchedFile]]":
        require_torch()
        return run_on_usable_thread(partial(self._built, part))

    def _built(self, part: str) -> "tuple[ov.Model, Sequence[WatchedFile]]":
        from perception_encoder.backends.openvino_dense import build_dense
        from perception_encoder.backends.openvino_write import build_openvino

        loaded = self.load()
        images = partial(iter_calibration_images, self.config)
        with require_unchanged(loaded.watched):
            if part.startswith(DENSE):
                layer = int(part.removeprefix(DENSE))
                return build_dense(loaded.model, layer), loaded.watched
            return build_openvino(loaded.model, part, self.precision, images), loaded.watched


@dataclass(frozen=True)
class ExportedGraphs:
    """A `GraphSource` over an exported folder.

    Args:
        folder: of the export.
        checksums: of its files, by name; none for exports of earlier versions.
    """

    folder: Path
    checksums: Mapping[str, str]

    def opened(
        self, part: str, compiled: "Callable[[Path | ov.Model], _Compiled]"
    ) -> tuple[_Compiled, Sequence[WatchedFile]]:
        """See `GraphSource`.

        Raises:
            CheckpointError: a file is damaged.
            UnsupportedOperationError: the export has no such part.
        """
        path = self.folder / f"{part}.xml"
        if not path.is_file():
            kind = "at its own size" if part.startswith(DENSE) else "of its last layer"
            raise UnsupportedOperationError(
                f"an OpenVINO export gives the features {kind} only; for others open the original "
                "weights"
            )
        files = GraphFolder(self.folder, lambda: self.checksums)
        return files.opened((path.name, f"{part}.bin"), lambda: compiled(path))


def grid_inputs(vision: VisionConfig, grid_h: int, grid_w: int) -> dict[str, NDArray[np.float32]]:
    """Return what the graph of `build_dense` takes beside the pixels of a grid, by name.

    `rows` (h, S) and `columns` (w, S) resize S × S positions bilinearly as torch's `interpolate`
    does with align_corners=False. Where the model has rope, `cos` and `sin` (N, C) are those of
    `rope_table`, with pairs in halves.
    """
    inputs = {
        "rows": _bilinear_weights(grid_h, vision.grid_size),
        "columns": _bilinear_weights(grid_w, vision.grid_size),
    }
    if vision.has_rope:
        pairs = vision.width // vision.num_heads // 4
        frequencies = 10_000.0 ** -(np.arange(pairs, dtype=np.float32) / pairs)
        first = int(vision.has_class_token)
        y, x = np.mgrid[first : grid_h + first, first : grid_w + first].reshape(2, -1, 1)
        angles = np.concatenate([x * frequencies, y * frequencies], axis=1)
        angles = np.concatenate([np.zeros((first, 2 * pairs)), angles]).astype(np.float32)
        inputs["cos"], inputs["sin"] = np.tile(np.cos(angles), 2), np.tile(np.sin(angles), 2)
    return inputs


def _bilinear_weights(length: int, native: int) -> NDArray[np.float32]:
    places = ((np.arange(length) + 0.5) * (native / length) - 0.5).clip(0, native - 1)
    below = places.astype(np.int64)
    weights = np.zeros((length, native), np.float32)
    steps = np.arange(length)
    weights[steps, below] = 1 - (places - below)
    weights[steps, np.minimum(below + 1, native - 1)] += (places - below).astype(np.float32)
    return weights


def find_graphs(
    checkpoint: Checkpoint, cache: GraphCache, precision: Precision
) -> tuple[CachedGraphs, KnownWeights]:
    """Return the graphs of a checkpoint; its weights are read only if they are not known.

    Raises:
        BackendUnavailableError: they are not known and torch is not installed.
        CheckpointError: the weights do not fit their model.
    """

    def load() -> "LoadedModel":
        loaded = read_weights(checkpoint)
        if loaded.fingerprint != known.fingerprint:
            raise CheckpointError(
                f"{checkpoint.path} was changed while the model was open; open it again"
            )
        return loaded

    known = identify_weights(checkpoint, cache.path)
    return CachedGraphs(cache, checkpoint.config, known, precision, load), known


def build_random_graphs(
    config: ModelConfig, cache: GraphCache, precision: Precision
) -> tuple[CachedGraphs, KnownWeights]:
    """Return the graphs of a model with random weights, which are the same each time.

    Raises:
        BackendUnavailableError: torch is not installed.
    """
    require_torch()
    from perception_encoder.checkpoints.load import LoadedModel, logit_scale_of, random_model
    from perception_encoder.checkpoints.tensors import weights_fingerprint

    model = random_model(config)
    known = KnownWeights(weights_fingerprint(model), logit_scale_of(model))

    def load() -> LoadedModel:
        return LoadedModel(random_model(config), known.fingerprint, known.logit_scale)

    return CachedGraphs(cache, config, known, precision, load), known
