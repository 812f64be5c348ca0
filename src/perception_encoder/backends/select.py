"""Choose a backend for a checkpoint, and open it on one or several devices."""

import ctypes
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from perception_encoder.backends.base import Backend, ComputeOptions
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import renew_in_children
from perception_encoder.registry import ModelConfig
from perception_encoder.types import BackendName, Embeddings, Pixels, TokenIds


class Replicas:
    """A `Backend` made of backends of the same weights.

    Each call runs on one device. `concurrency` parallel calls keep all devices busy.

    Args:
        backends: two or more; `close` closes them.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        first = backends[0]
        self._backends = backends
        self.renew_after_fork()
        renew_in_children(self)
        self.name = first.name
        self.device = ",".join(backend.device for backend in backends)
        self.precision = first.precision
        self.fingerprint = first.fingerprint
        self.logit_scale = first.logit_scale
        self.concurrency = sum(backend.concurrency for backend in backends)

    def renew_after_fork(self) -> None:
        """Forget the calls of the parent process."""
        self._calls = [0] * len(self._backends)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, devices: Sequence[str], open_one: Callable[[str], Backend]) -> "Replicas":
        """Open a backend on each device; if one fails, all are closed.

        Raises:
            BackendUnavailableError: a device is missing, or the precisions would differ.
        """
        with ExitStack() as opened:
            backends = []
            for device in devices:
                backends.append(open_one(device))
                opened.callback(backends[-1].close)
            if len({backend.precision for backend in backends}) > 1:
                found = ", ".join(f"{one.device}: {one.precision}" for one in backends)
                raise BackendUnavailableError(
                    f"these devices would compute in different precisions ({found}); name one with "
                    "precision="
                )
            replicas = cls(backends)
            opened.pop_all()
        return replicas

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        with self._least_busy() as backend:
            return backend.encode_image(pixels)

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        with self._least_busy() as backend:
            return backend.encode_text(token_ids)

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`."""
        with self._least_busy() as backend:
            return backend.features(pixels, layer=layer)

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """See `Backend.pool_inputs`."""
        with self._least_busy() as backend:
            return backend.pool_inputs(pixels)

    def close(self) -> None:
        """See `Backend.close`."""
        for backend in self._backends:
            backend.close()

    @contextmanager
    def _least_busy(self) -> Iterator[Backend]:
        with self._lock:
            number = self._calls.index(min(self._calls))
            self._calls[number] += 1
        try:
            yield self._backends[number]
        finally:
            with self._lock:
                self._calls[number] -= 1


def open_backend(checkpoint: Checkpoint, options: ComputeOptions) -> Backend:
    """Open a checkpoint with the backend and on the devices that the options name.

    Raises:
        BackendUnavailableError: the backend, device or precision is not available here.
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
    """Split "cuda:0,1" into device names; "cuda:all" names every device that torch sees."""
    kind, _, numbers = names.partition(":")
    if kind != "cuda" or not ("," in numbers or numbers == "all"):
        return [names]
    if numbers == "all":
        count = _num_cuda_devices()
        return [f"cuda:{number}" for number in range(count)] if count else ["cuda"]
    return [f"cuda:{number.strip()}" for number in numbers.split(",")]


def _open(checkpoint: Checkpoint, options: ComputeOptions) -> Backend:
    if checkpoint.graphs is not None:
        return _open_export(checkpoint, checkpoint.graphs.backend, options)
    if _chooses_openvino(options):
        from perception_encoder.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend.load(checkpoint, options)
    if options.backend == "onnx":
        from perception_encoder.backends.onnx_backend import open_onnx

        return open_onnx(checkpoint, options)
    _require_torch(options)
    from perception_encoder.backends.torch_backend import TorchBackend

    return TorchBackend.load(checkpoint, options)


def open_random_backend(config: ModelConfig, options: ComputeOptions) -> Backend:
    """Open a model with random weights, to measure speed and memory.

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
    """Return whether to use OpenVINO: on request, or by default on CPUs if it is installed.

    On CPUs it is faster than torch except for a single image (docs/reference/benchmarks.md), and
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
    """Count CUDA devices; torch is imported only if there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _open_export(checkpoint: Checkpoint, backend: BackendName, options: ComputeOptions) -> Backend:
    if options.backend not in ("auto", backend):
        raise BackendUnavailableError(
            f"{checkpoint.path.parent} was exported for backend {backend!r}, so "
            f"{options.backend!r} cannot run it; open the original weights with that"
        )
    if backend == "openvino":
        from perception_encoder.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend.load(checkpoint, options)
    from perception_encoder.backends.onnx_backend import open_onnx

    return open_onnx(checkpoint, options)


def _require_torch(options: ComputeOptions) -> None:
    if options.backend not in ("auto", "torch"):
        raise BackendUnavailableError(
            f"backend {options.backend!r} cannot run random weights; use "
            "backend='torch' or 'openvino'"
        )
    if importlib.util.find_spec("torch") is None:
        raise BackendUnavailableError(
            "no backend is installed to run models; "
            "install one: pip install 'perception-encoder[cpu]'"
        )
