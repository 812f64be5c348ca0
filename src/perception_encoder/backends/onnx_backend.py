"""Open ONNX graphs: an exported folder, or a cache that builds and measures what it lacks.

torch is imported only if a graph has to be built.
"""

import errno
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder._version import __version__
from perception_encoder.backends.base import ComputeOptions
from perception_encoder.backends.graph_cache import (
    DATA_SUFFIX,
    GRAPH_FORMAT,
    GraphCache,
    GraphFolder,
)
from perception_encoder.backends.samples import (
    CalibrationSamples,
    iter_calibration_images,
    random_token_rows,
)
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.folder import ExportedFiles
from perception_encoder.checkpoints.known_weights import identify_weights, require_torch
from perception_encoder.checkpoints.tensors import WatchedFile, require_unchanged
from perception_encoder.errors import (
    BackendUnavailableError,
    CheckpointError,
    UnsupportedOperationError,
)
from perception_encoder.forking import renew_in_children, run_on_usable_thread
from perception_encoder.registry import ModelConfig
from perception_encoder.types import BackendKind, Embeddings, Pixels, Precision, TokenIds

if TYPE_CHECKING:
    import onnxruntime


logger = logging.getLogger(__name__)

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_NUM_SAMPLES: Final = 4
_PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


class OnnxBackend:
    """A `Backend` over ONNX graphs. Each graph is opened when it is first needed.

    Args:
        folder: its files.
        config: of the model.
        graphs: what the folder holds.
        device: "auto" or "cpu", "cuda", "cuda:1", "tensorrt", "coreml".

    Raises:
        BackendUnavailableError: onnxruntime is not installed, or has no such device.
    """

    name: BackendKind = "onnx"
    concurrency = 1

    def __init__(
        self, folder: GraphFolder, config: ModelConfig, graphs: ExportedFiles, device: str = "auto"
    ) -> None:
        self.device = "cpu" if device == "auto" else device
        provider = choose_provider(self.device)
        self._config = config
        self._image = _Graph(folder, graphs.image_name, provider)
        self._text = _Graph(folder, graphs.text_name, provider)
        self.precision = graphs.precision
        self.fingerprint = graphs.fingerprint
        self.logit_scale = graphs.logit_scale

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        width = self._config.embed_dim
        if width is None:
            raise UnsupportedOperationError(
                f"{self._config.id} has patch features only, no image embedding; call features()"
            )
        return self._image.run("embeddings", pixels, (width,))

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        width = self._config.embed_dim
        if self._config.text is None or width is None:
            raise UnsupportedOperationError(f"{self._config.id} reads no text")
        return self._text.run("embeddings", token_ids, (width,))

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`.

        Raises:
            UnsupportedOperationError: another layer than the last, or another size.
            ValueError: the layer does not exist.
        """
        vision = self._config.vision
        if not -vision.depth <= layer < vision.depth:
            raise ValueError(f"layer {layer} is out of range: this tower has {vision.depth} blocks")
        if layer not in (-1, vision.depth - 1):
            raise UnsupportedOperationError(
                f"an exported graph gives the features of its last layer, {vision.depth - 1}, only;"
                f" for layer {layer} open the original weights with backend='torch'"
            )
        if pixels.shape[1:] != (vision.image_size, vision.image_size, 3):
            raise UnsupportedOperationError(
                f"backend 'onnx' cannot read images of {pixels.shape[2]} x {pixels.shape[1]} "
                f"pixels: its graphs have one size, {vision.image_size}. Leave out image_size and "
                "keep_aspect, or open the original weights with backend='torch' or 'openvino'"
            )
        return self._image.run("features", pixels, (vision.grid_size**2, vision.width))

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """See `Backend.pool_inputs`."""
        vision = self._config.vision
        if not vision.has_class_token:
            return self.features(pixels)
        return self._image.run("pool_inputs", pixels, (vision.grid_size**2 + 1, vision.width))

    def close(self) -> None:
        """See `Backend.close`."""
        self._image.close()
        self._text.close()


class _Graph:
    """One graph with one input, opened when it is first run."""

    def __init__(
        self, folder: GraphFolder, name: str, provider: tuple[str, dict[str, str]]
    ) -> None:
        self._folder = folder
        self._name = name
        self._provider = provider
        self._lock = threading.Lock()
        self._session: onnxruntime.InferenceSession | None = None
        self._watched: Sequence[WatchedFile] = ()
        self._left_behind: list[object] = []
        self._is_closed = False
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Open the graph again in a forked process; the parent's is not used, nor closed."""
        self._left_behind.append(self._session)
        self._session = None
        self._lock = threading.Lock()

    def run(
        self, output: str, batch: NDArray[Any], row_shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        session = self._opened()
        if not len(batch):  # some operators refuse it
            return np.empty((0, *row_shape), np.float32)
        with require_unchanged(self._watched):
            (result,) = session.run([output], {session.get_inputs()[0].name: batch})
        rows: NDArray[np.float32] = result
        return rows

    def close(self) -> None:
        with self._lock:
            self._session, self._is_closed = None, True

    def _opened(self) -> "onnxruntime.InferenceSession":
        with self._lock:
            if self._is_closed:
                raise BackendUnavailableError("this model was closed; open it again to use it")
            if self._session is None:
                path = self._folder.path / self._name
                weights = path.with_name(path.name + DATA_SUFFIX)
                names = [path.name, *([weights.name] if weights.exists() else [])]
                self._session, self._watched = self._folder.opened(
                    names, lambda: _open_session(path, *self._provider)
                )
            return self._session


def _open_session(
    path: Path, provider: str, options: dict[str, str]
) -> "onnxruntime.InferenceSession":
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; they are raised as well
    # A memory plan would be kept for each shape: 90 MiB for a B16, and no faster.
    settings.enable_mem_pattern = False
    # Waiting threads would spin, and take cores from decoding.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # By default it binds a thread to each core, even to cores that this process may not use.
    settings.intra_op_num_threads = _bound_cores()
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=[(provider, options)])
    except Exception as err:  # its errors have no other base in common
        raise CheckpointError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot open it ({err}). "
            "Export the model again"
        ) from err
    if provider not in session.get_providers():
        raise BackendUnavailableError(
            f"onnxruntime could not start {provider}; are its libraries installed? "
            "device='cpu' works everywhere"
        )
    return session


def _bound_cores() -> int:
    """Return how many cores this process is bound to; 0 if it may use all."""
    if sys.platform != "linux":
        return 0
    cores = len(os.sched_getaffinity(0))
    return cores if cores != os.cpu_count() else 0


def choose_provider(device: str) -> tuple[str, dict[str, str]]:
    """Return the execution provider of a device, and its options.

    Raises:
        BackendUnavailableError: onnxruntime is not installed, or has no such provider here.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise BackendUnavailableError(
            "onnxruntime is not installed; install it: pip install 'perception-encoder[onnx]'"
        )
    import onnxruntime

    kind, _, number = device.partition(":")
    provider = _PROVIDERS.get(kind)
    available = onnxruntime.get_available_providers()
    if provider is None or provider not in available or (number and not number.isdigit()):
        here = [name for name, known in _PROVIDERS.items() if known in available]
        raise BackendUnavailableError(
            f"device {device!r} is not available to the onnx backend here: this onnxruntime "
            f"{onnxruntime.__version__} has {', '.join(here)}. Packages with others: "
            "onnxruntime-gpu for cuda and tensorrt"
        )
    return provider, {"device_id": number} if number else {}


def open_onnx(checkpoint: Checkpoint, options: ComputeOptions) -> OnnxBackend:
    """Open an exported folder, or weights whose graphs are built unless they are cached.

    Raises:
        BackendUnavailableError: onnxruntime is not installed or has no such device; the folder's
            graphs have another precision; or graphs have to be built and cannot be.
        CheckpointError: the weights do not fit their model.
    """
    graphs = checkpoint.graphs
    if graphs is None:
        choose_provider("cpu")  # raises if onnxruntime is not installed
        precision: Precision = "fp32" if options.precision == "auto" else options.precision
        folder, graphs = load_cached_graphs(checkpoint, GraphCache(options.graph_cache), precision)
        return OnnxBackend(folder, checkpoint.config, graphs, options.device)
    if options.precision not in ("auto", graphs.precision):
        raise BackendUnavailableError(
            f"{checkpoint.path.parent} was exported in {graphs.precision}, so it cannot run in "
            f"{options.precision}; open it with precision='auto', or export the model anew"
        )
    files = GraphFolder(checkpoint.path.parent, lambda: graphs.checksums)
    return OnnxBackend(files, checkpoint.config, graphs, options.device)


def load_cached_graphs(
    checkpoint: Checkpoint, cache: GraphCache, precision: Precision
) -> tuple[GraphFolder, ExportedFiles]:
    """Return the files of a checkpoint's graphs, built if the cache lacks them.

    Raises:
        BackendUnavailableError: they have to be built, and torch or onnxscript is not installed, or
            neither the cache nor the folder for temporary files can be written.
        CheckpointError: the weights do not fit their model, or the graphs differ too much from it.
    """
    known = identify_weights(checkpoint, cache.path)
    graphs = ExportedFiles("onnx", precision, known.fingerprint, known.logit_scale)
    decides = (checkpoint.config.to_dict(), version("onnxruntime"), __version__, GRAPH_FORMAT)
    digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
    name = checkpoint.config.id.replace("/", "-")
    key = f"onnx/{name}-{known.fingerprint}-{precision}"
    make = partial(_make, checkpoint, graphs)
    try:
        return cache.folder(key, digest, make), graphs
    except OSError as err:
        if err.errno is not None and err.errno not in _NO_ROOM:  # numpy's have no number
            raise _not_kept(name, err) from err
        logger.warning("graphs of %s cannot be cached, so opening is slow: %s", name, str(err))
    try:
        return _temporary(make), graphs
    except OSError as err:
        raise _not_kept(name, err) from err


def _temporary(make: Callable[[Path], None]) -> GraphFolder:
    """Build graphs in a folder that is removed with the returned object."""
    path = Path(tempfile.mkdtemp(prefix="perception-encoder-"))
    try:
        make(path)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    folder = GraphFolder(path, dict)
    weakref.finalize(folder, shutil.rmtree, path, ignore_errors=True)
    return folder


def _not_kept(name: str, err: OSError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"graphs of {name} cannot be cached ({err}); export them to another folder: pe export"
    )


def _make(checkpoint: Checkpoint, graphs: ExportedFiles, folder: Path) -> None:
    require_torch()
    if importlib.util.find_spec("onnxscript") is None:
        raise BackendUnavailableError(
            "onnxscript is needed once, to build graphs of these weights: "
            "pip install 'perception-encoder[export]'"
        )
    import torch

    from perception_encoder.backends.graph_export import write_graphs
    from perception_encoder.checkpoints.load import load_model

    config = checkpoint.config
    pixels = np.concatenate(list(islice(iter_calibration_images(config), _NUM_SAMPLES)))
    loaded = run_on_usable_thread(lambda: load_model(checkpoint, dtype=torch.float32))
    if loaded.fingerprint != graphs.fingerprint:
        raise CheckpointError(
            f"{checkpoint.path} was changed while the model was open; open it again"
        )
    samples = CalibrationSamples(pixels, random_token_rows(config, _NUM_SAMPLES))
    run_on_usable_thread(lambda: write_graphs(loaded, config, folder, graphs, samples))
