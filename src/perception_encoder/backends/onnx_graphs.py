"""Open ONNX graphs: an exported folder, or a cache that builds and measures what it lacks.

torch is imported only if a graph has to be built.
"""

import errno
import hashlib
import importlib.util
import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from perception_encoder._version import __version__
from perception_encoder.backends.base import ComputeOptions
from perception_encoder.backends.graph_cache import GRAPH_FORMAT, GraphCache, GraphFolder
from perception_encoder.backends.onnx_backend import OnnxBackend, choose_provider
from perception_encoder.backends.samples import (
    CalibrationSamples,
    iter_calibration_images,
    random_token_rows,
)
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.folder import ExportedFiles
from perception_encoder.checkpoints.known_weights import identify_weights, require_torch
from perception_encoder.errors import BackendUnavailableError, CheckpointError
from perception_encoder.forking import run_on_usable_thread
from perception_encoder.types import Precision

logger = logging.getLogger(__name__)

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_NUM_SAMPLES: Final = 4


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
