"""Runs chunks through a backend and puts their vectors where they belong."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.feeds import Chunk, overlapped
from perception_encoder.errors import CacheError
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    from tqdm import tqdm


logger = logging.getLogger(__name__)

_In = TypeVar("_In")

_Out = NDArray[np.float32]

_NOTHING: Embeddings = np.empty((0, 0), np.float32)
_QUIET_SECONDS = 2.0  # work shorter than this shows no bar


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
        encode: the backend's call.
        at_once: how many calls keep the backend busy.
        cache: takes what was computed.
        advance: is told how many more rows are done.
    """

    def compute(chunk: Chunk[_In]) -> Embeddings:
        return encode(chunk.inputs) if chunk.rows else _NOTHING

    for chunk, result in overlapped(compute, chunks, at_once):
        for row, vector in chunk.known.items():
            vectors[row] = vector
        if chunk.rows:
            vectors[chunk.rows] = result
            if cache is not None and not _is_kept(cache, chunk.keys, result):
                cache = None
        advance(len(chunk.rows) + len(chunk.known) + chunk.num_skipped)


def _is_kept(cache: EmbeddingCache, keys: Sequence[bytes], vectors: Embeddings) -> bool:
    """Store embeddings; a full disk must not lose what was computed."""
    try:
        cache.put(keys, vectors)
    except CacheError as err:
        logger.warning("%s; what is computed from now on is not kept", err)
        return False
    return True


def computed(
    chunks: Iterable[Chunk[_In]],
    encode: Callable[[_In], _Out],
    *,
    at_once: int,
    advance: Callable[[int], object],
) -> Iterator[_Out]:
    """Yield what the backend makes of each chunk, in order; arguments as for `fill`."""
    for _, result in overlapped(lambda chunk: encode(chunk.inputs), chunks, at_once):
        yield result
        advance(len(result))


def progress_bar(total: int, unit_name: str, show_progress: bool | None) -> "tqdm[NoReturn]":
    """Return a bar on stderr with rate and time left.

    Args:
        total: how many items there are.
        unit_name: what they are called.
        show_progress: None shows the bar on a terminal, once the work has taken two seconds.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit=f" {unit_name}",
        disable=None if show_progress is None else not show_progress,  # None: on a terminal only
        delay=_QUIET_SECONDS if show_progress is None else 0.0,
        leave=False,
    )
