"""Images of sources as vectors, in the order in which they are listed, for jobs without an index.

Reading and decoding go ahead of the model on threads; however much the sources hold, only a window
of it is in memory. One bad image stops nobody.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Final

import numpy as np

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.arithmetic import unit
from perception_encoder.embedder.feeds import overlapped
from perception_encoder.index import Outcome, Row
from perception_encoder.indexing.commit import Progress
from perception_encoder.indexing.prepare import PreparedImage, prepare
from perception_encoder.preprocess import ImageProcessor, num_usable_cores
from perception_encoder.sources import Item, Source
from perception_encoder.types import Embeddings

_REMOTE_THREADS: Final = 16  # they wait for the network, not for a core


@dataclass(frozen=True, slots=True)
class EmbeddedImages:
    """Neighbors in a list of images.

    Attributes:
        rows: what is known of each of N, as an index would say it.
        vectors: (N, E) float32 of unit length.
        failed: the outcomes of those among them that could not be used.
    """

    rows: Sequence[Row]
    vectors: Embeddings
    failed: Sequence[Outcome] = ()


def items_of(sources: Iterable[Source]) -> Iterator[Item]:
    """List each image once, also where sources overlap."""
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
    """Embed images, and yield them in their order, a batch at a time.

    Args:
        model: computes the vectors.
        items: of sources; taken as they are needed.
        batch_size: images computed at once.
        progress: is told how far it is.

    Raises:
        UnsupportedOperationError: the model gives patch features only.
    """
    embed_dim = model.identity.embed_dim
    progress = progress or Progress()
    window = (2 + model.backend.concurrency) * batch_size

    def embed(batch: Sequence[PreparedImage | Outcome]) -> tuple[EmbeddedImages, float]:
        started = perf_counter()
        usable = [one for one in batch if isinstance(one, PreparedImage)]
        failed = [one for one in batch if isinstance(one, Outcome)]
        vectors = np.empty((0, embed_dim), np.float32)
        if usable:
            pixels = np.stack([one.resized for one in usable if one.resized is not None])
            vectors = unit(model.backend.encode_image(pixels))
        done = EmbeddedImages([one.row for one in usable], vectors, failed)
        return done, perf_counter() - started

    with closing(_prepared(items, model.processor, window, progress)) as prepared:
        batches = iter(lambda: list(islice(prepared, batch_size)), [])
        for _, (done, seconds) in overlapped(embed, batches, model.backend.concurrency):
            progress.encode_seconds += seconds
            progress.counts.update(embedded=len(done.rows), failed=len(done.failed))
            yield done


def _prepared(
    items: Iterable[Item], processor: ImageProcessor, window: int, progress: Progress
) -> Generator[PreparedImage | Outcome]:
    """Read and decode images ahead, at most a window of them, and yield them in their order."""
    local = ThreadPoolExecutor(num_usable_cores(), "decode")
    remote = ThreadPoolExecutor(_REMOTE_THREADS, "fetch")
    read = partial(prepare, processor=processor, donor_of=lambda _: None, is_new=True)
    running: deque[Future[PreparedImage | Outcome]] = deque()

    def first() -> PreparedImage | Outcome:
        result = running.popleft().result()
        progress.decode_seconds += result.decode_ms / 1000
        return result

    try:
        for item in items:
            progress.num_listed += 1
            running.append((remote if item.is_remote else local).submit(read, item))
            if len(running) == window:
                yield first()
        progress.is_listing = False
        while running:
            yield first()
    finally:
        # Threads that wait for a network end when it answers.
        remote.shutdown(wait=False, cancel_futures=True)
        local.shutdown(cancel_futures=True)
