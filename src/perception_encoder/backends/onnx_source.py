"""ONNX graphs of weights that were not exported: made once, tried, and kept.

Imports torch only when they have to be made.
"""

import hashlib
import importlib.util
import json
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from perception_encoder._version import __version__
from perception_encoder.backends.calibration_pictures import calibration_pictures
from perception_encoder.backends.graph_cache import GraphCache
from perception_encoder.backends.known_weights import known_weights, require_torch
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.folder import Graphs
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.types import Precision

_NUM_SAMPLES: Final = 4
_SOURCES: Final = (  # what decides a graph, beside versions
    "model/blocks.py",
    "model/graphs.py",
    "model/rope.py",
    "model/text.py",
    "model/vision.py",
    "backends/onnx_attention.py",
    "backends/onnx_precision.py",
    "backends/onnx_write.py",
)


def cached_graphs(
    checkpoint: Checkpoint, cache: GraphCache, precision: Precision
) -> tuple[Path, Graphs]:
    """Return the folder of a checkpoint's graphs, made where the cache lacks them.

    Raises:
        BackendUnavailableError: they have to be made, and torch or onnxscript is not installed, or
            the cache cannot be written.
        CheckpointError: the weights do not fit their model, or the graphs differ too much from it.
    """
    known = known_weights(checkpoint, cache)
    graphs = Graphs("onnx", precision, known.fingerprint, known.logit_scale)
    decides = (checkpoint.config.to_dict(), version("onnxruntime"), __version__, _sources())
    digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
    name = checkpoint.config.id.replace("/", "-")
    key = f"onnx/{name}-{known.fingerprint}-{precision}"
    try:
        return cache.graph(key, digest, partial(_make, checkpoint, graphs)), graphs
    except OSError as err:
        raise BackendUnavailableError(
            f"graphs of {name} cannot be kept ({err}); make them where you can: pe export"
        ) from err


def _make(checkpoint: Checkpoint, graphs: Graphs, folder: Path) -> None:
    require_torch()
    if importlib.util.find_spec("onnxscript") is None:
        raise BackendUnavailableError(
            "onnxscript is needed once, to make graphs of these weights: "
            "pip install 'perception-encoder[export]'"
        )
    import torch

    from perception_encoder.backends.export import Samples, write_graphs
    from perception_encoder.checkpoints.load import load_model

    config = checkpoint.config
    token_ids = np.empty((0, 2), np.int64)
    if config.text is not None:
        length, end = config.text.context_length, config.text.vocab_size - 1
        token_ids = np.random.default_rng(0).integers(0, end - 1, (_NUM_SAMPLES, length))
        token_ids[:, -1] = end
    pixels = np.concatenate(list(islice(calibration_pictures(config), _NUM_SAMPLES)))
    loaded = load_model(checkpoint, dtype=torch.float32)
    write_graphs(loaded, config, folder, graphs, Samples(pixels, token_ids))


def _sources() -> str:
    """Name the code that makes graphs: between releases, a version says too little."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(files("perception_encoder").joinpath(name).read_bytes())
    return digest.hexdigest()
