"""Runs chunks through an engine, several at once where one call does not keep it busy."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.chunk import Chunk
from perception_encoder.types import Embeddings

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_NOTHING: Embeddings = np.empty((0, 0), np.float32)


def overlapped(
    call: Callable[[_In], _Out], inputs: Iterable[_In], at_once: int
) -> Iterator[tuple[_In, _Out]]:
    """Yield each input and its result, in order; up to `at_once` calls run beside each other.

    Inputs are taken no further ahead than that. The first call that fails ends it, once those that
    run are over.
    """
    if at_once == 1:
        yield from ((one, call(one)) for one in inputs)
        return
    running: deque[tuple[_In, Future[_Out]]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for one in inputs:
            if len(running) == at_once:
                done, future = running.popleft()
                yield done, future.result()
            running.append((one, pool.submit(call, one)))
        for done, future in running:
            yield done, future.result()


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
        advance(len(chunk.rows) + len(chunk.known))
