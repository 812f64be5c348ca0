"""Chooses an engine for a checkpoint and opens it."""

import importlib.util

from perception_encoder.backends.base import Backend, ComputeOptions
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.registry import ModelConfig
from perception_encoder.types import BackendName


def open_backend(checkpoint: Checkpoint, options: ComputeOptions) -> Backend:
    """Load a checkpoint into the engine that the options name.

    Raises:
        BackendUnavailableError: that engine, device or precision is not to be had here.
        CheckpointError: the weights do not fit their model.
    """
    if checkpoint.graphs is not None:
        return _open_export(checkpoint, checkpoint.graphs.engine, options)
    _require_torch(options)
    from perception_encoder.backends.torch_backend import TorchBackend

    return TorchBackend.load(checkpoint, options)


def open_random_backend(config: ModelConfig, options: ComputeOptions) -> Backend:
    """Build a model with made-up weights, for benchmarks and tests of speed and memory.

    Raises:
        BackendUnavailableError: as `open_backend`.
    """
    _require_torch(options)
    from perception_encoder.backends.torch_backend import TorchBackend

    return TorchBackend.with_random_weights(config, options)


def _open_export(checkpoint: Checkpoint, engine: BackendName, options: ComputeOptions) -> Backend:
    if options.backend not in ("auto", engine):
        raise BackendUnavailableError(
            f"{checkpoint.path.parent} was exported for backend {engine!r}, so "
            f"{options.backend!r} cannot run it; open the original weights with that"
        )
    from perception_encoder.backends.onnx_backend import OnnxBackend

    return OnnxBackend.load(checkpoint, options)


def _require_torch(options: ComputeOptions) -> None:
    if options.backend not in ("auto", "torch"):
        raise BackendUnavailableError(
            f"backend {options.backend!r} is not available in this version; use backend='torch'"
        )
    if importlib.util.find_spec("torch") is None:
        raise BackendUnavailableError(
            "no engine is installed to run models; "
            "install one: pip install 'perception-encoder[cpu]'"
        )
