"""Gives prepared images their vectors: the one their content has already, or one of the model.

Knows nothing of sources, threads or when things are committed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index, Outcome, Row, Status
from perception_encoder.indexing.commit import CommittedItem
from perception_encoder.indexing.prepare import PreparedImage, prepare


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
        computed = dict(zip(new, encoded(self._model, list(new.values())), strict=True))
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


def encoded(model: EmbeddingModel, items: Sequence[PreparedImage]) -> list[PreparedImage]:
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
