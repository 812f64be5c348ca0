"""Chooses an engine for a checkpoint and opens it."""

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from perception_encoder.backends.base import Backend, ComputeOptions
from perception_encoder.backends.replicas import Replicas
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.registry import ModelConfig
from perception_encoder.types import BackendName


def open_backend(checkpoint: Checkpoint, options: ComputeOptions) -> Backend:
    """Load a checkpoint into the engine that the options name, on each device that they name.

    Raises:
        BackendUnavailableError: that engine, device or precision is not to be had here.
        CheckpointError: the weights do not fit their model.
    """
    return _on_each_device(options, partial(_open, checkpoint))


def _on_each_device(
    options: ComputeOptions, open_one: Callable[[ComputeOptions], Backend]
) -> Backend:
    devices = _devices(options.device)
    if len(devices) == 1:
        return open_one(replace(options, device=devices[0]))
    return Replicas.open(devices, lambda device: open_one(replace(options, device=device)))


def _devices(names: str) -> list[str]:
    """Split "cuda:0,1" into the names of devices; "cuda:all" is all that torch sees."""
    kind, _, numbers = names.partition(":")
    if kind != "cuda" or not ("," in numbers or numbers == "all"):
        return [names]
    if numbers == "all":
        count = _num_cuda_devices()
        return [f"cuda:{number}" for number in range(count)] if count else ["cuda"]
    return [f"cuda:{number.strip()}" for number in numbers.split(",")]


def _open(checkpoint: Checkpoint, options: ComputeOptions) -> Backend:
    if checkpoint.graphs is not None:
        return _open_export(checkpoint, checkpoint.graphs.engine, options)
    if _chooses_openvino(options):
        from perception_encoder.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend.load(checkpoint, options)
    if options.backend == "onnx":
        from perception_encoder.backends.onnx_backend import OnnxBackend

        return OnnxBackend.load(checkpoint, options)
    _require_torch(options)
    from perception_encoder.backends.torch_backend import TorchBackend

    return TorchBackend.load(checkpoint, options)


def open_random_backend(config: ModelConfig, options: ComputeOptions) -> Backend:
    """Build a model with made-up weights, for benchmarks and tests of speed and memory.

    Raises:
        BackendUnavailableError: as `open_backend`.
    """
    return _on_each_device(options, partial(_open_random, config))


def _open_random(config: ModelConfig, options: ComputeOptions) -> Backend:
    if _chooses_openvino(options):
        from perception_encoder.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend.with_random_weights(config, options)
    _require_torch(options)
    from perception_encoder.backends.torch_backend import TorchBackend

    return TorchBackend.with_random_weights(config, options)


def _chooses_openvino(options: ComputeOptions) -> bool:
    """Whether OpenVINO was asked for, or is here and nothing speaks against it.

    On CPUs it is ahead of torch in all but one picture alone (docs/reference/experiments.md), and
    it opens without importing torch.
    """
    if options.backend != "auto":
        return options.backend == "openvino"
    return (
        options.device in ("auto", "cpu")
        and options.precision != "fp16"
        and importlib.util.find_spec("openvino") is not None
        and not (options.device == "auto" and _num_cuda_devices())
    )


def _num_cuda_devices() -> int:
    """Ask the driver first: without one, torch need not be imported to know."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _open_export(checkpoint: Checkpoint, engine: BackendName, options: ComputeOptions) -> Backend:
    if options.backend not in ("auto", engine):
        raise BackendUnavailableError(
            f"{checkpoint.path.parent} was exported for backend {engine!r}, so "
            f"{options.backend!r} cannot run it; open the original weights with that"
        )
    if engine == "openvino":
        from perception_encoder.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend.load(checkpoint, options)
    from perception_encoder.backends.onnx_backend import OnnxBackend

    return OnnxBackend.load(checkpoint, options)


def _require_torch(options: ComputeOptions) -> None:
    if options.backend not in ("auto", "torch"):
        raise BackendUnavailableError(
            f"backend {options.backend!r} runs no made-up weights unless they were exported; use "
            "backend='torch' or 'openvino' for them"
        )
    if importlib.util.find_spec("torch") is None:
        raise BackendUnavailableError(
            "no engine is installed to run models; "
            "install one: pip install 'perception-encoder[cpu]'"
        )
