"""One item on its way to the model: read, hashed, decoded and resized, or told why not.

Runs on many threads at once. Knows nothing of models, indexes or other items.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.index import Index, Outcome, Row, Status, item_name
from perception_encoder.indexing.commit import CommittedItem
from perception_encoder.preprocess import ImageProcessor, num_usable_cores
from perception_encoder.sources import Item

logger = logging.getLogger(__name__)
_REMOTE_THREADS: Final = 16  # they wait for the network, not for a core


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An item that was read.

    Attributes:
        item: where it came from.
        row: what the index will say of it; without width and height where `donor` is given.
        resized: (S, S, 3) uint8 RGB; None where `donor` is given.
        donor: the key of a row with the same content, whose vector it can have.
        is_new: whether the index has no row of its key.
        decode_ms: reading, decoding and resizing took, milliseconds.
        vector: (E,) unit length, where it was computed on the way; `resized` is not kept then.
        encode_ms: what that took, its share of its batch, milliseconds.
    """

    item: Item
    row: Row
    resized: NDArray[np.uint8] | None
    donor: str | None
    is_new: bool
    decode_ms: float
    vector: NDArray[np.float32] | None = None
    encode_ms: float = 0.0


def prepare(
    item: Item,
    processor: ImageProcessor,
    donor_of: Callable[[str], str | None],
    *,
    is_new: bool,
) -> PreparedImage | Outcome:
    """Read an item, and decode it unless its content has a vector already.

    Args:
        item: from a source.
        processor: decodes and resizes.
        donor_of: the key of a row with that SHA-256, or None.
        is_new: whether the index has no row of its key.

    Returns:
        What was read, or the outcome of a failure.
    """
    started = time.perf_counter()
    name = item_name(item.uri, item.member)
    resized, width, height = None, None, None
    try:
        data = item.read()
        sha256 = hashlib.sha256(data).hexdigest()
        donor = donor_of(sha256)
        if donor is None:
            resized, width, height = processor.resize_measured(data, item=name)
        row = Row(
            uri=item.uri,
            member=item.member,
            offset=item.offset,
            width=width,
            height=height,
            bytes=len(data) if item.bytes is None else item.bytes,
            mtime=item.mtime,
            sha256=sha256,
            metadata=item.metadata,
        )
    except Exception as err:  # noqa: BLE001  one item of many: it is counted and reported
        return make_failure(item, err, _milliseconds_since(started))
    return PreparedImage(item, row, resized, donor, is_new, _milliseconds_since(started))


def make_failure(item: Item, err: Exception, decode_ms: float = 0.0) -> Outcome:
    """Return the outcome of an item that could not be brought into the index, and why."""
    name, message = item_name(item.uri, item.member), str(err)
    if not isinstance(err, PerceptionEncoderError | OSError | ValueError | MemoryError):
        logger.warning("%s: an error that was not foreseen", name, exc_info=err)
    if name not in message:
        message = f"{name}: {message or type(err).__name__}"
    return Outcome(
        item.uri,
        "failed",
        member=item.member,
        offset=item.offset,
        reason=type(err).__name__,
        message=message,
        bytes=item.bytes,
        mtime=item.mtime,
        decode_ms=decode_ms,
        metadata=item.metadata,
    )


def _milliseconds_since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)


class ListedItem(NamedTuple):
    """An item to prepare, and whether the index has no row of its key."""

    item: Item
    is_new: bool


class Preparation(Protocol):
    """A place where items are prepared; of use for one run."""

    chunk_size: int
    """How many items it takes at once."""
    window: int
    """How many items may be on their way to their rows: it bounds the memory of a run."""

    def submit(
        self, chunk: Sequence[ListedItem], donor_of: Callable[[str], str | None]
    ) -> Future[list[PreparedImage | Outcome]]:
        """Begin to prepare up to `chunk_size` items.

        Args:
            chunk: the items.
            donor_of: the key of a row with that SHA-256, or None; may be called from any thread.
        """
        ...

    def close(self) -> None:
        """Give up what has not begun."""
        ...


class ThreadPreparation:
    """A `Preparation`: a thread for each core, and some more for what lies behind a network.

    Args:
        processor: the model's preprocessing.
        window: see `Preparation`.
    """

    chunk_size = 1

    def __init__(self, processor: ImageProcessor, *, window: int) -> None:
        self.window = window
        self._processor = processor
        self._pool = ThreadPoolExecutor(num_usable_cores(), "decode")
        self._remote_pool = ThreadPoolExecutor(_REMOTE_THREADS, "fetch")

    def submit(
        self, chunk: Sequence[ListedItem], donor_of: Callable[[str], str | None]
    ) -> Future[list[PreparedImage | Outcome]]:
        """See `Preparation.submit`."""
        pool = self._remote_pool if chunk[0].item.is_remote else self._pool
        return pool.submit(self._prepare, chunk, donor_of)

    def close(self) -> None:
        """See `Preparation.close`. Threads that wait for a network end when it answers."""
        self._remote_pool.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _prepare(
        self, chunk: Sequence[ListedItem], donor_of: Callable[[str], str | None]
    ) -> list[PreparedImage | Outcome]:
        return [
            prepare(listed.item, self._processor, donor_of, is_new=listed.is_new)
            for listed in chunk
        ]


class ComputedBatch(NamedTuple):
    """A batch's rows, the outcomes of those that failed after all, and the model's time."""

    rows: list[CommittedItem]
    failed: list[Outcome]
    encode_seconds: float


class Computer:
    """Turns batches of prepared images into rows with vectors; threads may share it.

    Args:
        model: computes what is new.
        index: has the vectors of contents that are known.
    """

    def __init__(self, model: EmbeddingModel, index: Index) -> None:
        self._model = model
        self._index = index

    def rows(
        self, batch: Sequence[PreparedImage], waiting: Mapping[str, CommittedItem]
    ) -> ComputedBatch:
        """Return what becomes of a batch.

        Args:
            batch: prepared images.
            waiting: rows that are computed but not in the index yet, by content.
        """
        donors = self._index.by_ids(item.donor for item in batch if item.donor is not None)
        rows, failed, images = list[CommittedItem](), list[Outcome](), list[PreparedImage]()
        for item in batch:
            donor = donors.get(item.donor or "")
            if donor is not None and donor[0].sha256 == item.row.sha256:
                rows.append(_reused(item, *donor))
                continue
            # The row that had this content has been given another since.
            again = item if item.donor is None else self._prepared_without_donor(item)
            if isinstance(again, Outcome):
                failed.append(again)
            else:
                images.append(again)
        computed, seconds = self._with_vectors(images, waiting)
        return ComputedBatch(rows + computed, failed, seconds)

    def _prepared_without_donor(self, item: PreparedImage) -> PreparedImage | Outcome:
        return prepare(item.item, self._model.processor, lambda _: None, is_new=item.is_new)

    def _with_vectors(
        self, images: Sequence[PreparedImage], waiting: Mapping[str, CommittedItem]
    ) -> tuple[list[CommittedItem], float]:
        """Compute each content once, unless it waits to be committed already; and the seconds."""
        new: dict[str, PreparedImage] = {}
        for item in images:
            if item.row.sha256 not in waiting:
                new.setdefault(str(item.row.sha256), item)
        computed = dict(zip(new, encode_batch(self._model, list(new.values())), strict=True))
        vectors = {content: embedded.vector for content, embedded in waiting.items()}
        rows, seconds = [], 0.0
        for item in images:
            content = str(item.row.sha256)
            is_first = new.get(content) is item
            outcome = _outcome(item, "embedded" if is_first else "reused", item.row)
            vector = computed[content].vector if content in computed else vectors[content]
            if is_first:
                outcome = replace(outcome, encode_ms=computed[content].encode_ms)
                seconds += outcome.encode_ms / 1000
            assert vector is not None
            rows.append(CommittedItem(item.row, vector, item.is_new, outcome))
        return rows, seconds


def encode_batch(model: EmbeddingModel, items: Sequence[PreparedImage]) -> list[PreparedImage]:
    """Give items their vectors in the place of their pixels; in one batch, those without one."""
    images = [item for item in items if item.vector is None]
    if not images:
        return list(items)
    started = time.perf_counter()
    pixels = np.stack([item.resized for item in images if item.resized is not None])
    vectors = iter(model.embed_pixels(pixels))
    each_ms = 1000 * (time.perf_counter() - started) / len(images)
    return [
        item
        if item.vector is not None
        else replace(item, resized=None, vector=next(vectors), encode_ms=each_ms)
        for item in items
    ]


def _reused(item: PreparedImage, donor: Row, vector: NDArray[np.float32]) -> CommittedItem:
    row = replace(item.row, width=donor.width, height=donor.height)
    return CommittedItem(row, vector, item.is_new, _outcome(item, "reused", row))


def _outcome(item: PreparedImage, status: Status, row: Row) -> Outcome:
    return Outcome(
        row.uri,
        status,
        member=row.member,
        offset=row.offset,
        bytes=row.bytes,
        mtime=row.mtime,
        decode_ms=item.decode_ms,
    )
