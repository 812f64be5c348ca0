"""One short name for a set of weights, whatever file they came from.

Two checkpoints of the same weights (Meta's `.pt`, a converted safetensors, our own folder) have the
same fingerprint; it is stored with every vector and names every exported graph. It samples values,
so that a model of 2.4 B parameters takes a moment: enough to tell trained weights apart, no defence
against someone who edits a few numbers on purpose.

A registered model's weights under another config (another normalization, another activation) make
other embeddings, so they have another fingerprint.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from perception_encoder.model import DualEncoder
from perception_encoder.registry import MODELS, ModelConfig

_RUN = 32  # consecutive values read at the start, middle and end of each tensor
_DIGITS = 16


def weights_fingerprint(model: DualEncoder) -> str:
    """Return 16 hex digits of the SHA-256 over names, shapes and sampled float32 values.

    Take it before weights are converted to another precision: rounded weights are other weights.
    """
    return fingerprint_of(dict(model.named_parameters()), model.config)


def fingerprint_of(parameters: Mapping[str, Tensor], config: ModelConfig) -> str:
    """As `weights_fingerprint`, from our parameter names and their tensors."""
    digest = hashlib.sha256(_deviation(config))
    for name in sorted(parameters):
        tensor = parameters[name].detach()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_sampled(tensor).float().cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:_DIGITS]


def _deviation(config: ModelConfig) -> bytes:
    """Name a config that is not the one its id is registered with; b"" for all others."""
    registered = next((entry.config for entry in MODELS if entry.id == config.id), config)
    return b"" if registered == config else config.digest().encode()


def _sampled(tensor: Tensor) -> Tensor:
    """(at most 96,) values, in runs: a mapped file is read by pages, and each costs time."""
    flat = tensor.reshape(-1)
    if flat.numel() <= 3 * _RUN:
        return flat
    middle = flat.numel() // 2
    return torch.cat([flat[:_RUN], flat[middle : middle + _RUN], flat[-_RUN:]])
