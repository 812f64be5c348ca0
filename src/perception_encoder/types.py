"""Shared names for arrays and choices. Knows nothing but numpy.

One legend of axis letters is used in every shape comment of this package:

    B batch · H W pixels · h w patch grid · N tokens (h·w, +1 with a class token) · L text length
    D width · M heads · C head_dim · E embed_dim · Q queries · R rows of an index · K results
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
"""(B, S, S, 3) uint8, RGB: prepared images. Backends normalize them with the model's mean and std,
so that a quarter of the bytes is copied to where they compute."""

TokenIds: TypeAlias = NDArray[np.int64]
"""(B, L) int64: start token, words, end token, then zeros."""

Embeddings: TypeAlias = NDArray[np.float32]
"""(B, E) float32; of unit length unless said otherwise."""

BackendName: TypeAlias = Literal["torch", "openvino", "onnx"]
"""Backends that can be asked for."""

BackendKind: TypeAlias = BackendName | Literal["numpy"]
"""Those and the one that reads texts where the weights are known."""

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
PreprocessName: TypeAlias = Literal["standard", "reference", "fast"]
ColorFormat: TypeAlias = Literal["bgr", "rgb"]


@dataclass(frozen=True)
class ModelIdentity:
    """Whether two vectors may be compared: they may if all four agree.

    Attributes:
        model_id: the registered id, such as "PE-Core-B16-224".
        fingerprint: short name of the weights; the same for every file format of them.
        preprocess: how images were brought to the model's size.
        embed_dim: E, after any truncation.
    """

    model_id: str
    fingerprint: str
    preprocess: PreprocessName
    embed_dim: int
