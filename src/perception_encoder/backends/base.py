"""What every backend can do. Arrays in, arrays out: no images, no strings, no tensors."""

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
    """Where and how to compute, as a user asks for it; "auto" leaves it to the backend."""

    device: str = "auto"
    backend: BackendName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    compile: bool = False
    """Run torch's towers through `torch.compile`; other backends run compiled graphs anyhow."""
    graph_cache: Path | None = None
    """Where a backend keeps the graphs that it makes; None for the usual place."""


class Backend(Protocol):
    """A loaded model. Calls change nothing, so any number of threads may share one."""

    name: BackendKind
    device: str
    precision: Precision
    fingerprint: str
    """Names the weights, whatever file they came from; see `checkpoints.fingerprint`."""
    logit_scale: float
    """What a cosine is multiplied by before a softmax, about 100; 1.0 for models without text."""
    concurrency: int
    """How many calls at once keep it busy: 1 for a backend that takes all cores for each."""

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """(B, S, S, 3) uint8, RGB, to (B, E) float32, not of unit length."""

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """(B, L) int64 to (B, E) float32, not of unit length."""

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """(B, S, S, 3) uint8, RGB, to (B, h·w, D) float32 after that block and the final norm."""

    def close(self) -> None:
        """Give the model's memory back; the backend cannot be used afterwards."""
