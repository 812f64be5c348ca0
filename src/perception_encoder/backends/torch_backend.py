"""The torch engine: eager on the CPU, on CUDA, or on Apple's GPU.

Knows devices and precisions; nothing about pictures, words or where weights come from.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from perception_encoder.backends.base import ComputeOptions
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.load import load_model, logit_scale_of
from perception_encoder.checkpoints.random_weights import random_model
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.model import DualEncoder
from perception_encoder.model.graphs import FeatureGraph, ImageGraph, TextGraph
from perception_encoder.registry import ModelConfig
from perception_encoder.types import Embeddings, EngineName, Pixels, Precision, TokenIds

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


# The widest activations of one step, in bytes, that still lie in a CPU's cache: B16 in bf16 reaches
# 0.78 of the matrix rate with 8 pictures (9.7 MB) and 0.67 with 32, on 32 MB of cache.
_CACHED_BYTES = 10 << 20


class _Graphs(NamedTuple):
    image: ImageGraph
    features: FeatureGraph
    text: TextGraph


class TorchBackend:
    """A `Backend` over torch modules."""

    name: EngineName = "torch"

    def __init__(
        self,
        model: DualEncoder,
        device: torch.device,
        precision: Precision,
        *,
        fingerprint: str,
        logit_scale: float,
    ) -> None:
        """Take over a model whose parameters already have the precision's dtype.

        `logit_scale` is given apart, from the stored weights: bf16 would make 98.9 of 100.
        """
        model = model.to(device)
        self._open_graphs: _Graphs | None = _Graphs(
            ImageGraph(model), FeatureGraph(model), TextGraph(model)
        )
        self._device = device
        self._step = _pictures_at_once(model.config, precision) if device.type == "cpu" else None
        self.device = str(device)
        self.precision = precision
        self.fingerprint = fingerprint
        self.logit_scale = logit_scale

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: ComputeOptions) -> "TorchBackend":
        """Load a checkpoint; its own precision is kept only where it is the one asked for.

        Raises:
            BackendUnavailableError: the device or precision is not to be had here.
            CheckpointError: the weights do not fit their model.
        """
        device = choose_device(options.device)
        precision = choose_precision(options.precision, device)
        loaded = load_model(checkpoint, dtype=_DTYPES[precision])
        return cls(
            loaded.model,
            device,
            precision,
            fingerprint=loaded.fingerprint,
            logit_scale=loaded.logit_scale,
        )

    @classmethod
    def with_random_weights(cls, config: ModelConfig, options: ComputeOptions) -> "TorchBackend":
        """Build a model with the weights of `random_model`.

        Raises:
            BackendUnavailableError: the device or precision is not to be had here.
        """
        from perception_encoder.checkpoints.fingerprint import weights_fingerprint

        device = choose_device(options.device)
        precision = choose_precision(options.precision, device)
        model = random_model(config)
        fingerprint, logit_scale = weights_fingerprint(model), logit_scale_of(model)
        return cls(
            model.to(_DTYPES[precision]),
            device,
            precision,
            fingerprint=fingerprint,
            logit_scale=logit_scale,
        )

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        step = self._step or max(1, len(pixels))
        with torch.inference_mode():
            parts = torch.split(self._to_device(pixels), step)
            return _to_numpy(torch.cat([self._graphs.image(part) for part in parts]))

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        with torch.inference_mode():
            return _to_numpy(self._graphs.text(self._to_device(token_ids)))

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`."""
        with torch.inference_mode():
            return _to_numpy(self._graphs.features(self._to_device(pixels), layer=layer))

    def close(self) -> None:
        """See `Backend.close`."""
        self._open_graphs = None

    @property
    def _graphs(self) -> _Graphs:
        if self._open_graphs is None:
            raise BackendUnavailableError("this model was closed; open it again to use it")
        return self._open_graphs

    def _to_device(self, array: Pixels | TokenIds) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _pictures_at_once(config: ModelConfig, precision: Precision) -> int:
    vision = config.vision
    num_tokens = vision.grid_size**2 + int(vision.has_class_token)
    widest = num_tokens * vision.mlp_width * _DTYPES[precision].itemsize
    return max(1, _CACHED_BYTES // widest)


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.cpu().numpy()


def as_tensor(array: NDArray[np.float32]) -> torch.Tensor:
    """Return a CPU tensor that shares the array's memory."""
    return torch.from_numpy(array)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        BackendUnavailableError: torch does not know the name, or the device is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise BackendUnavailableError(
            f"unknown device {name!r}; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from err
    available = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise BackendUnavailableError(
            f"device {name!r} is not available here: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA device(s); use device='auto' or 'cpu'"
        )
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of that name; "auto" is bf16 where the hardware multiplies it.

    Raises:
        BackendUnavailableError: this engine has no such precision.
    """
    if name == "auto":
        return "bf16" if _multiplies_bf16(device) else "fp32"
    for precision in _DTYPES:
        if name == precision:
            return precision
    raise BackendUnavailableError(
        f"the torch backend has no precision {name!r}; use 'auto' or one of {', '.join(_DTYPES)}"
    )


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Older releases of torch cannot tell; fp32 is right everywhere.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def devices() -> list[str]:
    """Name the devices that models can run on here, in words."""
    cpu = "cpu (bf16 in hardware)" if _multiplies_bf16(torch.device("cpu")) else "cpu"
    cuda = [
        f"cuda:{number} ({torch.cuda.get_device_name(number)})"
        for number in range(torch.cuda.device_count())
    ]
    return [cpu, *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
