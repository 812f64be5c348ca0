"""The interface of every backend: NumPy arrays in, NumPy arrays out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from perception_encoder.types import (
    BackendKind,
    BackendName,
    Embeddings,
    Pixels,
    Precision,
    TokenIds,
)


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where and how to compute; with "auto" the backend chooses."""

    device: str = "auto"
    backend: BackendName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    compile: bool = False
    """Use `torch.compile`; for torch only, because other backends always compile."""
    graph_cache: Path | None = None
    """The folder of cached graphs; None is `default_cache_folder`."""


class Backend(Protocol):
    """A loaded model. Any number of threads can share it."""

    name: BackendKind
    device: str
    precision: Precision
    fingerprint: str
    """Names the weights, whatever file they are in; see `weights_fingerprint`."""
    logit_scale: float
    """The factor of a cosine before a softmax, about 100; 1.0 for models without text."""
    concurrency: int
    """How many parallel calls keep it busy; 1 for a backend that uses all cores for each call."""

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """Embed (B, S, S, 3) uint8 RGB pixels: (B, E) float32, not normalized."""

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """Embed (B, L) int64 token ids: (B, E) float32, not normalized."""

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """Return (B, h·w, D) float32 of (B, H, W, 3) pixels after a block and the final norm.

        H and W are multiples of the patch size.

        Raises:
            UnsupportedOperationError: an exported graph has one size or layer only.
        """

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """Return the (B, N, D) float32 tokens that the tower's pooling reads, class token first.

        See `VisionTower.final_tokens`.
        """

    def close(self) -> None:
        """Free the model's memory; the backend cannot be used afterwards."""
