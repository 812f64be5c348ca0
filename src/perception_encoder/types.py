"""Types of arrays and choices that the whole package shares.

Shapes are written with these letters:

    B batch · H W pixels · h w patch grid · N tokens (h·w, +1 with a class token) · L text length
    D width · M heads · C head_dim · E embed_dim · Q queries · R rows of an index · K results
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
"""(B, S, S, 3) uint8, RGB: preprocessed images. Backends normalize them with the model's mean and
standard deviation, so that a quarter of the bytes is copied to the device."""

TokenIds: TypeAlias = NDArray[np.int64]
"""(B, L) int64: start token, tokens of the text, end token, zeros."""

Embeddings: TypeAlias = NDArray[np.float32]
"""(B, E) float32, of unit length unless stated otherwise."""

BackendName: TypeAlias = Literal["torch", "openvino", "onnx"]
"""Backends that can be selected."""

BackendKind: TypeAlias = BackendName | Literal["numpy"]
"""All backends: those, and NumPy, which embeds texts without loading another one."""

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
PreprocessName: TypeAlias = Literal["standard", "reference", "fast"]
SaveFormat: TypeAlias = Literal["perception-encoder", "open_clip"]
ColorFormat: TypeAlias = Literal["bgr", "rgb"]


@dataclass(frozen=True)
class ModelIdentity:
    """What embeddings depend on. They can be compared if all four values are equal.

    Attributes:
        model_id: the registered id, such as "PE-Core-B16-224".
        fingerprint: identifies the weights, whatever their file format.
        preprocess: the name of the preprocessing of images.
        embed_dim: E, after truncation.
    """

    model_id: str
    fingerprint: str
    preprocess: PreprocessName
    embed_dim: int
