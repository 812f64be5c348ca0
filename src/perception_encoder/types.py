"""Shared names for arrays and choices. Knows nothing but numpy.

One legend of axis letters is used in every shape comment of this package:

    B batch · H W pixels · h w patch grid · N tokens (h·w, +1 with a class token) · L text length
    D width · M heads · C head_dim · E embed_dim · Q queries · R rows of a table · K results
"""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.float32]
"""(B, 3, H, W) float32, RGB, normalised with the model's mean and std."""

TokenIds: TypeAlias = NDArray[np.int64]
"""(B, L) int64: start token, words, end token, then zeros."""

Embeddings: TypeAlias = NDArray[np.float32]
"""(B, E) float32; of unit length unless said otherwise."""

BackendName: TypeAlias = Literal["torch", "openvino", "onnx"]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
PreprocessName: TypeAlias = Literal["standard", "reference"]
ColorFormat: TypeAlias = Literal["bgr", "rgb"]
