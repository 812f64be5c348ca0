"""Prepares items for the model (read, hash, decode, resize) and computes their vectors.

Preparation runs on many threads. A vector is reused if the index has one of the same content.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.index import Index, MetadataValue, Outcome, Row, Status, item_name
from perception_encoder.index.tiles import Box, TileGrid
from perception_encoder.indexing.commit import CommittedItem
from perception_encoder.indexing.photo_metadata import read_file_columns
from perception_encoder.indexing.tiles import (
    PreparedTile,
    find_tiles,
    make_tile_row,
    resize_with_tiles,
)
from perception_encoder.preprocess import ImageProcessor, num_usable_cores
from perception_encoder.preprocess.crops import crop_image
from perception_encoder.sources import Item
from perception_encoder.video.names import is_moment

logger = logging.getLogger(__name__)
_REMOTE_THREADS: Final = 16  # they wait for the network, not for a core


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An item that was read.

    Attributes:
        item: where it came from.
        row: its row; without width and height if `duplicate_of` is given.
        resized: (S, S, 3) uint8 RGB; None if `duplicate_of` is given.
        duplicate_of: the id of a row with the same content, whose vector is reused.
        is_new: whether the index has no row with its id.
        decode_ms: time for reading, decoding and resizing, milliseconds.
        vector: (E,) unit length, if it is computed already; `resized` is None then.
        encode_ms: its share of the time of its batch in the model, milliseconds.
        file_columns: what the file itself says of the photo, by column.
        tiles: of the image, if the index has them; none if `duplicate_of` is given.
    """

    item: Item
    row: Row
    resized: NDArray[np.uint8] | None
    duplicate_of: str | None
    is_new: bool
    decode_ms: float
    vector: NDArray[np.float32] | None = None
    encode_ms: float = 0.0
    file_columns: Mapping[str, MetadataValue] = field(default_factory=dict)
    tiles: Sequence[PreparedTile] = ()


def prepare(
    item: Item,
    processor: ImageProcessor,
    find_duplicate: Callable[[str], str | None],
    *,
    is_new: bool,
    reads_metadata: bool = False,
    tiles: TileGrid | None = None,
) -> PreparedImage | Outcome:
    """Read an item, and decode it unless the index has a vector of its content.

    Args:
        item: from a source.
        processor: decodes and resizes.
        find_duplicate: returns the id of a row with a SHA-256, or None.
        is_new: whether the index has no row with its id.
        reads_metadata: whether to read what the file says of the photo, too.
        tiles: how to divide the image; None for no tiles.

    Returns:
        The prepared image, or the outcome of a failure.
    """
    started = time.perf_counter()
    name = item_name(item.uri, item.member)
    resized, width, height = None, None, None
    prepared_tiles: Sequence[PreparedTile] = ()
    columns: Mapping[str, MetadataValue] = {}
    try:
        data = item.read()
        sha256 = hashlib.sha256(data).hexdigest()
        duplicate_of = find_duplicate(sha256)
        if duplicate_of is None:
            part = crop_image(data, item.crop)
            if tiles is None:
                resized, width, height = processor.resize_measured(part, item=name)
            else:
                whole, prepared_tiles = resize_with_tiles(processor, part, tiles, item=name)
                resized, width, height = whole
        if reads_metadata:
            columns = read_file_columns(item.uri, item.member, data, item.sidecars)
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
    took = _milliseconds_since(started)
    return PreparedImage(
        item, row, resized, duplicate_of, is_new, took, file_columns=columns, tiles=prepared_tiles
    )


def make_failure(item: Item, err: Exception, decode_ms: float = 0.0) -> Outcome:
    """Return the outcome of an item that failed."""
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
    """An item to prepare.

    Attributes:
        item: from a source.
        is_new: whether the index has no row with its id.
        reads_metadata: whether to read what the file says of the photo, too.
        tiles: how to divide the image; None for no tiles.
    """

    item: Item
    is_new: bool
    reads_metadata: bool = False
    tiles: TileGrid | None = None


class Preparation(Protocol):
    """Prepares the items of one run, on threads or on other machines."""

    chunk_size: int
    """Number of items per call."""
    window: int
    """Number of items between listing and commit, which bounds the memory of a run."""

    def submit(
        self, chunk: Sequence[ListedItem], find_duplicate: Callable[[str], str | None]
    ) -> Future[list[PreparedImage | Outcome]]:
        """Start to prepare up to `chunk_size` items.

        Args:
            chunk: the items.
            find_duplicate: returns the id of a row with a SHA-256, or None; from any thread.
        """
        ...

    def close(self) -> None:
        """Cancel items that have not started."""
        ...


class ThreadPreparation:
    """A `Preparation` with a thread per core, and more for items on a network.

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
        self, chunk: Sequence[ListedItem], find_duplicate: Callable[[str], str | None]
    ) -> Future[list[PreparedImage | Outcome]]:
        """See `Preparation.submit`."""
        pool = self._remote_pool if chunk[0].item.is_remote else self._pool
        return pool.submit(self._prepare, chunk, find_duplicate)

    def close(self) -> None:
        """See `Preparation.close`. Threads that wait for a network end when it responds."""
        self._remote_pool.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _prepare(
        self, chunk: Sequence[ListedItem], find_duplicate: Callable[[str], str | None]
    ) -> list[PreparedImage | Outcome]:
        return [
            prepare(
                listed.item,
                self._processor,
                find_duplicate,
                is_new=listed.is_new,
                reads_metadata=listed.reads_metadata,
                tiles=listed.tiles,
            )
            for listed in chunk
        ]


class ComputedBatch(NamedTuple):
    """The rows of a batch, the outcomes of failed items, and the time in the model."""

    rows: list[CommittedItem]
    failed: list[Outcome]
    encode_seconds: float


class Computer:
    """Computes the vectors of prepared images. Threads may share it.

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
        """Return the rows of a batch.

        Args:
            batch: prepared images.
            waiting: rows that are computed but not committed yet, by content.
        """
        duplicates = self._index.by_ids(
            item.duplicate_of for item in batch if item.duplicate_of is not None
        )
        tiles = self._index.tiles
        known = None
        if tiles is not None:
            known = find_tiles(self._index, [row for row, _ in duplicates.values()], tiles)
        rows, failed, images = list[CommittedItem](), list[Outcome](), list[PreparedImage]()
        for item in batch:
            duplicate_of = duplicates.get(item.duplicate_of or "")
            if (
                duplicate_of is not None
                and _is_same_image(duplicate_of[0], item.row)
                and (known is None or item.duplicate_of in known)
            ):
                rows += _reuse(item, *duplicate_of, (known or {}).get(duplicate_of[0].id, ()))
                continue
            # The row with this content has changed since.
            again = item if item.duplicate_of is None else self._prepare_again(item)
            if isinstance(again, Outcome):
                failed.append(again)
            else:
                images.append(again)
        computed, seconds = self._compute_vectors(images, waiting)
        return ComputedBatch(rows + computed, failed, seconds)

    def _prepare_again(self, item: PreparedImage) -> PreparedImage | Outcome:
        again = prepare(
            item.item,
            self._model.processor,
            lambda _: None,
            is_new=item.is_new,
            tiles=self._index.tiles,
        )
        if isinstance(again, Outcome):
            return again
        return replace(again, file_columns=item.file_columns)

    def _compute_vectors(
        self, images: Sequence[PreparedImage], waiting: Mapping[str, CommittedItem]
    ) -> tuple[list[CommittedItem], float]:
        """Compute each content once, unless it waits for its commit; and the seconds."""
        new: dict[str, PreparedImage] = {}
        for item in images:
            if item.row.sha256 not in waiting:
                new.setdefault(str(item.row.sha256), item)
        computed = dict(zip(new, encode_batch(self._model, list(new.values())), strict=True))
        vectors = {content: embedded.vector for content, embedded in waiting.items()}
        rows, seconds = list[CommittedItem](), 0.0
        for item in images:
            content = str(item.row.sha256)
            is_first = new.get(content) is item
            outcome = _make_outcome(item, "embedded" if is_first else "reused", item.row)
            if is_first:
                outcome = replace(outcome, encode_ms=computed[content].encode_ms)
                seconds += outcome.encode_ms / 1000
            if content in computed:
                vector = computed[content].vector
                tiles = [(tile.box, tile.vector) for tile in computed[content].tiles]
            else:
                vector = vectors[content]
                parts = [tile.box for tile in item.tiles]
                tiles = [(box, vectors[f"{content}{box.fragment}"]) for box in parts]
            rows += _committed(item, item.row, vector, outcome, tiles)
        return rows, seconds


def _is_same_image(stored: Row, row: Row) -> bool:
    """Whether a stored row has the content of an image: not of a video with an image's name."""
    return stored.sha256 == row.sha256 and not is_moment(stored.uri, stored.member)


def encode_batch(model: EmbeddingModel, items: Sequence[PreparedImage]) -> list[PreparedImage]:
    """Replace the pixels of items by vectors, computed in one batch."""
    images = [item for item in items if item.vector is None]
    if not images:
        return list(items)
    started = time.perf_counter()
    parts = [
        resized
        for item in images
        for resized in (item.resized, *(tile.resized for tile in item.tiles))
    ]
    pixels = np.stack([resized for resized in parts if resized is not None])
    vectors = iter(model.embed_pixels(pixels))
    each_ms = 1000 * (time.perf_counter() - started) / len(images)

    def with_vectors(item: PreparedImage) -> PreparedImage:
        vector = next(vectors)
        tiles = [replace(tile, resized=None, vector=next(vectors)) for tile in item.tiles]
        return replace(item, resized=None, vector=vector, tiles=tiles, encode_ms=each_ms)

    return [item if item.vector is not None else with_vectors(item) for item in items]


def _reuse(
    item: PreparedImage,
    duplicate_of: Row,
    vector: NDArray[np.float32],
    tiles: Sequence[tuple[Box, NDArray[np.float32]]],
) -> list[CommittedItem]:
    row = replace(item.row, width=duplicate_of.width, height=duplicate_of.height)
    return _committed(item, row, vector, _make_outcome(item, "reused", row), tiles)


def _committed(
    item: PreparedImage,
    row: Row,
    vector: NDArray[np.float32] | None,
    outcome: Outcome,
    tiles: Sequence[tuple[Box, NDArray[np.float32] | None]],
) -> list[CommittedItem]:
    """Return the row of an image, which has the outcome, and those of its tiles."""
    parts = [(row, vector), *((make_tile_row(row, box), one) for box, one in tiles)]
    committed = []
    for part, one in parts:
        assert one is not None
        part_outcome = outcome if part is row else None
        committed.append(CommittedItem(part, one, item.is_new, part_outcome, item.file_columns))
    return committed


def _make_outcome(item: PreparedImage, status: Status, row: Row) -> Outcome:
    return Outcome(
        row.uri,
        status,
        member=row.member,
        offset=row.offset,
        bytes=row.bytes,
        mtime=row.mtime,
        decode_ms=item.decode_ms,
    )
