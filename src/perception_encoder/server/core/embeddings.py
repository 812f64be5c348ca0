"""Vectors as replies carry them: cut, normalized, quantized, and as floats, base64 or npy."""

import base64
import io
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.server.http.errors import ApiError
from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows

Dtype: TypeAlias = Literal["float32", "float16", "int8"]
Encoding: TypeAlias = Literal["float", "base64", "npy"]

_INT8: Final = 127


@dataclass(frozen=True)
class VectorForm:
    """How a request wants its vectors.

    Attributes:
        dimensions: keep this many numbers of each, then normalize; None keeps all.
        dtype: of the numbers. int8: each vector times 127 over its largest magnitude, rounded; its
            cosine with others is the same as before within rounding, whatever that factor was.
    """

    dimensions: int | None = None
    dtype: Dtype = "float32"


def shaped(vectors: Embeddings, form: VectorForm) -> NDArray[Any]:
    """Return (N, dimensions) vectors in the wanted form, from (N, E) float32 of unit length.

    Raises:
        ApiError: 400, more dimensions than the model gives.
    """
    embed_dim = vectors.shape[1]
    if form.dimensions is not None and form.dimensions > embed_dim:
        raise ApiError(
            400,
            "too_many_dimensions",
            f"the model gives {embed_dim} dimensions; {form.dimensions} cannot be had",
        )
    if form.dimensions is not None and form.dimensions < embed_dim:
        vectors = normalize_rows(vectors[:, : form.dimensions])
    vectors = np.ascontiguousarray(vectors)
    if form.dtype == "float32":
        return vectors
    if form.dtype == "float16":
        return vectors.astype(np.float16)
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    return np.rint(vectors * (_INT8 / np.where(largest > 0, largest, 1))).astype(np.int8)


def as_base64(vector: NDArray[Any]) -> str:
    """Return one vector's bytes, little endian, as base64."""
    little = vector.astype(vector.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode("ascii")


def as_npy(vectors: NDArray[Any]) -> bytes:
    """Return a `.npy` file of the vectors."""
    out = io.BytesIO()
    np.save(out, vectors, allow_pickle=False)
    return out.getvalue()


def for_json(vector: NDArray[Any], encoding: Encoding) -> object:
    """Return one vector for a JSON reply: numbers, or their bytes as base64."""
    if encoding == "base64":
        return as_base64(vector)
    return vector.astype(np.float32) if vector.dtype == np.float16 else vector
