"""The torch backend: on the CPU, CUDA or Apple's GPU, eager or compiled."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception_encoder.backends.base import ComputeOptions
from perception_encoder.backends.torch_devices import (
    DTYPES,
    NUM_STREAMS,
    CompiledTowers,
    CudaStreams,
    choose_device,
    choose_precision,
    computing,
)
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.known_weights import (
    KnownWeights,
    sign_files,
    store_known_weights,
)
from perception_encoder.checkpoints.load import load_model, logit_scale_of, random_model
from perception_encoder.checkpoints.tensors import WatchedFile, require_unchanged
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import run_on_usable_thread
from perception_encoder.model import DualEncoder
from perception_encoder.model.dual_encoder import (
    FeatureGraph,
    ImageGraph,
    PoolInputGraph,
    TextGraph,
)
from perception_encoder.registry import ModelConfig
from perception_encoder.types import BackendKind, Embeddings, Pixels, Precision, TokenIds

logger = logging.getLogger(__name__)

# The widest activations of one step, in bytes, that still lie in a CPU's cache: B16 in bf16 reaches
# 0.78 of the matrix rate with 8 images (9.7 MB) and 0.67 with 32, on 32 MB of cache.
_CACHED_BYTES: Final = 10 << 20
# Tokens of one step on a GPU: meant to fill a large one (not measured); more only takes memory.
_GPU_TOKENS: Final = 1 << 16


class _Graphs(NamedTuple):
    image: Callable[[Tensor], Tensor]
    features: FeatureGraph
    pool_inputs: PoolInputGraph
    text: Callable[[Tensor], Tensor]


class TorchBackend:
    """A `Backend` over torch modules."""

    name: BackendKind = "torch"

    def __init__(
        self,
        model: DualEncoder,
        device: torch.device,
        precision: Precision,
        *,
        fingerprint: str,
        logit_scale: float,
        is_compiled: bool = False,
        watched: Sequence[WatchedFile] = (),
    ) -> None:
        """Take over a model whose parameters already have the precision's dtype.

        `logit_scale` is given apart, from the stored weights: bf16 would make 98.9 of 100.
        `watched` are the files that parameters are views of.

        Raises:
            BackendUnavailableError: it cannot be compiled here.
            CheckpointError: a file was overwritten meanwhile.
        """
        with require_unchanged(watched):
            model = model.to(device)
        self._watched = watched if device.type == "cpu" else ()  # elsewhere it is a copy
        image, text = ImageGraph(model), TextGraph(model)
        self._open_graphs: _Graphs | None = _Graphs(
            CompiledTowers(image, 1) if is_compiled else image,
            FeatureGraph(model),
            PoolInputGraph(model),
            CompiledTowers(text, 2) if is_compiled else text,
        )
        self._device = device
        self._process = os.getpid()
        self._streams = CudaStreams(device) if device.type == "cuda" else None
        self._step = _images_at_once(model.config, precision, device)
        self._native_area = model.config.vision.image_size**2
        self.device = str(device)
        self.precision = precision
        self.fingerprint = fingerprint
        self.logit_scale = logit_scale
        self.concurrency = NUM_STREAMS if self._streams else 1
        if is_compiled:
            self._compile_now(model.config)

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: ComputeOptions) -> "TorchBackend":
        """Load a checkpoint; its own precision is kept only where it is the one asked for.

        Raises:
            BackendUnavailableError: the device or precision is not to be had here, or the model
                cannot be compiled.
            CheckpointError: the weights do not fit their model.
        """
        return run_on_usable_thread(partial(cls._load, checkpoint, options))

    @classmethod
    def _load(cls, checkpoint: Checkpoint, options: ComputeOptions) -> "TorchBackend":
        device = choose_device(options.device)
        precision = choose_precision(options.precision, device)
        signature = sign_files(checkpoint)
        loaded = load_model(checkpoint, dtype=DTYPES[precision])
        known = KnownWeights(loaded.fingerprint, loaded.logit_scale)
        store_known_weights(checkpoint, signature, known, options.graph_cache)
        return cls(
            loaded.model,
            device,
            precision,
            fingerprint=loaded.fingerprint,
            logit_scale=loaded.logit_scale,
            is_compiled=options.compile,
            watched=loaded.watched,
        )

    @classmethod
    def with_random_weights(cls, config: ModelConfig, options: ComputeOptions) -> "TorchBackend":
        """Build a model with the weights of `random_model`.

        Raises:
            BackendUnavailableError: as `load`.
        """
        return run_on_usable_thread(partial(cls._with_random_weights, config, options))

    @classmethod
    def _with_random_weights(cls, config: ModelConfig, options: ComputeOptions) -> "TorchBackend":
        from perception_encoder.checkpoints.tensors import weights_fingerprint

        device = choose_device(options.device)
        precision = choose_precision(options.precision, device)
        model = random_model(config)
        fingerprint, logit_scale = weights_fingerprint(model), logit_scale_of(model)
        return cls(
            model.to(DTYPES[precision]),
            device,
            precision,
            fingerprint=fingerprint,
            logit_scale=logit_scale,
            is_compiled=options.compile,
        )

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        return self._run(self._graphs.image, pixels)

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        return self._compute(self._graphs.text, token_ids, len(token_ids))

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`."""
        return self._run(partial(self._graphs.features, layer=layer), pixels)

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """See `Backend.pool_inputs`."""
        return self._run(self._graphs.pool_inputs, pixels)

    def close(self) -> None:
        """See `Backend.close`."""
        self._open_graphs = None
        self._watched = ()
        if self._streams is not None:
            # torch keeps what calls used for their streams; the next model will have others.
            torch.cuda.empty_cache()

    @property
    def _graphs(self) -> _Graphs:
        if self._open_graphs is None:
            raise BackendUnavailableError("this model was closed; open it again to use it")
        return self._open_graphs

    def _run(self, graph: Callable[[Tensor], Tensor], pixels: Pixels) -> NDArray[np.float32]:
        """Run a batch in steps, in smaller ones where a GPU has too little memory."""
        # Of the tokens of an image of the model's own size.
        scale = pixels.shape[1] * pixels.shape[2] / self._native_area
        step = max(1, int(self._step / scale))
        while True:
            try:
                return self._compute(graph, pixels, step)
            except torch.cuda.OutOfMemoryError as err:
                if min(step, len(pixels)) <= 1:
                    raise BackendUnavailableError(
                        f"{self.device} has too little free memory for one image: {err}"
                    ) from err
            step = min(step, len(pixels)) // 2
            # Another thread may have come further down.
            self._step = min(self._step, max(1, int(step * scale)))
            logger.warning(
                "%s has too little free memory; computing %d images at a time", self.device, step
            )

    def _compute(
        self, graph: Callable[[Tensor], Tensor], batch: Pixels | TokenIds, step: int
    ) -> NDArray[np.float32]:
        """Run a batch, so many rows at a time."""
        if os.getpid() != self._process and self._device.type != "cpu":
            raise BackendUnavailableError(
                f"this model was opened on {self.device} before the process forked, and a device "
                "cannot be used in both: open the model in the new process, started with "
                "multiprocessing's 'spawn'"
            )
        return run_on_usable_thread(partial(self._computed, graph, batch, step))

    def _computed(
        self, graph: Callable[[Tensor], Tensor], batch: Pixels | TokenIds, step: int
    ) -> NDArray[np.float32]:
        with computing.shared(), require_unchanged(self._watched):
            if len(batch) == 0:  # flash attention refuses it before torch 2.10
                one = np.zeros((1, *batch.shape[1:]), batch.dtype)
                return self._in_steps(graph, one, 1)[:0]
            return self._in_steps(graph, batch, step)

    def _in_steps(
        self, graph: Callable[[Tensor], Tensor], batch: Pixels | TokenIds, step: int
    ) -> NDArray[np.float32]:
        """Run a batch in steps that are alike: a small rest would leave a GPU half idle."""
        size = math.ceil(len(batch) / math.ceil(len(batch) / step))
        with torch.inference_mode(), self._stream():
            starts = range(0, len(batch), size)
            parts = (self._to_device(batch[start : start + size]) for start in starts)
            return _to_numpy(torch.cat([graph(part) for part in parts]))

    def _compile_now(self, config: ModelConfig) -> None:
        """Compile before anybody waits for an answer, and fail here if at all."""
        side = config.vision.image_size
        with computing.exclusive():
            if config.embed_dim is not None:
                pixels = np.zeros((2, side, side, 3), np.uint8)
                self._in_steps(self._graphs.image, pixels, len(pixels))
            if config.text is not None:
                token_ids = np.zeros((2, 3), np.int64)
                self._in_steps(self._graphs.text, token_ids, len(token_ids))

    def _stream(self) -> AbstractContextManager[None]:
        return self._streams.one() if self._streams else nullcontext()

    def _to_device(self, array: Pixels | TokenIds) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._streams is None:
            return tensor.to(self._device)
        # From page-locked memory, which torch keeps for the next call, a copy waits for nobody.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _images_at_once(config: ModelConfig, precision: Precision, device: torch.device) -> int:
    vision = config.vision
    num_tokens = vision.grid_size**2 + int(vision.has_class_token)
    if device.type != "cpu":
        return max(1, _GPU_TOKENS // num_tokens)
    widest = num_tokens * vision.mlp_width * DTYPES[precision].itemsize
    return max(1, _CACHED_BYTES // widest)


def _to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.cpu().numpy()


def as_tensor(array: NDArray[np.float32]) -> Tensor:
    """Return a CPU tensor that shares the array's memory."""
    return torch.from_numpy(array)
