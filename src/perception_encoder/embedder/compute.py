"""Runs chunks through an engine and puts their vectors where they belong."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.chunk import Chunk
from perception_encoder.embedder.overlap import overlapped
from perception_encoder.types import Embeddings

_In = TypeVar("_In")

_Out = NDArray[np.float32]

_NOTHING: Embeddings = np.empty((0, 0), np.float32)


def fill(
    vectors: Embeddings,
    chunks: Iterable[Chunk[_In]],
    encode: Callable[[_In], Embeddings],
    *,
    at_once: int,
    cache: EmbeddingCache | None,
    advance: Callable[[int], object],
) -> None:
    """Write every chunk's vectors, computed or known, into their rows and into the cache.

    Args:
        vectors: (N, E) float32; all rows are written if the chunks have all.
        chunks: what to compute, or has been.
        encode: the engine's call.
        at_once: how many calls keep the engine busy.
        cache: takes what was computed.
        advance: is told how many more rows are done.
    """

    def compute(chunk: Chunk[_In]) -> Embeddings:
        return encode(chunk.inputs) if chunk.rows else _NOTHING

    for chunk, computed in overlapped(compute, chunks, at_once):
        for row, vector in chunk.known.items():
            vectors[row] = vector
        if chunk.rows:
            vectors[chunk.rows] = computed
            if cache is not None:
                cache.put(chunk.keys, computed)
        advance(len(chunk.rows) + len(chunk.known) + chunk.num_skipped)


def computed(
    chunks: Iterable[Chunk[_In]],
    encode: Callable[[_In], _Out],
    *,
    at_once: int,
    advance: Callable[[int], object],
) -> Iterator[_Out]:
    """Yield what the engine makes of each chunk, in order; arguments as for `fill`."""
    for _, result in overlapped(lambda chunk: encode(chunk.inputs), chunks, at_once):
        yield result
        advance(len(result))
