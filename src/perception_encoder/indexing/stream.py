"""Embeds the images of sources in their order, for jobs without an index.

Threads read and decode ahead of the model; only a window of the images is in memory. A bad image
does not stop the job.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final

import numpy as np

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.pipeline import embed_in_batches
from perception_encoder.index import Outcome, Row
from perception_encoder.indexing.commit import Progress
from perception_encoder.indexing.prepare import PreparedImage, prepare
from perception_encoder.preprocess import num_usable_cores
from perception_encoder.sources import Item, Source
from perception_encoder.types import Embeddings

_REMOTE_THREADS: Final = 16  # they wait for the network, not for a core


@dataclass(frozen=True, slots=True)
class EmbeddedImages:
    """A batch of embedded images.

    Attributes:
        rows: the rows of N images.
        vectors: (N, E) float32, unit length.
        failed: the outcomes of images of the batch that failed.
    """

    rows: Sequence[Row]
    vectors: Embeddings
    failed: Sequence[Outcome] = ()


def iter_items(sources: Iterable[Source]) -> Iterator[Item]:
    """Yield each image once, even if sources overlap."""
    seen = set[bytes]()
    for source in sources:
        for item in source.items():
            key = bytes.fromhex(item.id)
            if key not in seen:
                seen.add(key)
                yield item


def embed_items(
    model: EmbeddingModel,
    items: Iterable[Item],
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Iterator[EmbeddedImages]:
    """Embed images, and yield them in order, a batch at a time.

    Args:
        model: computes the vectors.
        items: the items, taken as they are needed.
        batch_size: images per batch.
        progress: counts what is done.

    Raises:
        UnsupportedOperationError: the model gives patch features only.
    """
    embed_dim = model.identity.embed_dim
    progress = progress or Progress()
    read = partial(prepare, processor=model.processor, find_duplicate=lambda _: None, is_new=True)
    local = ThreadPoolExecutor(num_usable_cores(), "decode")
    remote = ThreadPoolExecutor(_REMOTE_THREADS, "fetch")

    def submit(item: Item) -> Future[PreparedImage | Outcome]:
        return (remote if item.is_remote else local).submit(read, item)

    def embed(batch: Sequence[PreparedImage | Outcome]) -> tuple[EmbeddedImages, float, float]:
        started = perf_counter()
        usable = [one for one in batch if isinstance(one, PreparedImage)]
        failed = [one for one in batch if isinstance(one, Outcome)]
        vectors = np.empty((0, embed_dim), np.float32)
        if usable:
            pixels = np.stack([one.resized for one in usable if one.resized is not None])
            vectors = model.embed_pixels(pixels)
        done = EmbeddedImages([one.row for one in usable], vectors, failed)
        decode_seconds = sum(one.decode_ms for one in batch) / 1000
        return done, decode_seconds, perf_counter() - started

    batches = embed_in_batches(
        _counted(items, progress),
        submit,
        embed,
        batch_size=batch_size,
        concurrency=model.backend.concurrency,
    )
    try:
        for done, decode_seconds, encode_seconds in batches:
            progress.decode_seconds += decode_seconds
            progress.encode_seconds += encode_seconds
            progress.counts.update(embedded=len(done.rows), failed=len(done.failed))
            yield done
    finally:
        # Threads that wait for a network end when it responds.
        remote.shutdown(wait=False, cancel_futures=True)
        local.shutdown(cancel_futures=True)


def _counted(items: Iterable[Item], progress: Progress) -> Iterator[Item]:
    for item in items:
        progress.num_listed += 1
        yield item
    progress.is_listing = False
