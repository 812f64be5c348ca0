"""Gives prepared pictures their vectors: the one their content has already, or one of the model.

Knows nothing of sources, threads or when things are committed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.vectors import unit
from perception_encoder.index import Index, Outcome, Row, Status
from perception_encoder.pipeline.commit import Embedded
from perception_encoder.pipeline.prepare import Prepared, prepare


class Computed(NamedTuple):
    """A batch's rows, the outcomes of those that failed after all, and the model's time."""

    rows: list[Embedded]
    failed: list[Outcome]
    encode_seconds: float


class Computer:
    """Turns batches of prepared pictures into rows with vectors; threads may share it.

    Args:
        model: computes what is new.
        index: has the vectors of contents that are known.
    """

    def __init__(self, model: EmbeddingModel, index: Index) -> None:
        self._model = model
        self._index = index

    def rows(self, batch: Sequence[Prepared], waiting: Mapping[str, Embedded]) -> Computed:
        """Return what becomes of a batch.

        Args:
            batch: prepared pictures.
            waiting: rows that are computed but not in the table yet, by content.
        """
        donors = self._index.by_ids(item.donor for item in batch if item.donor is not None)
        rows, failed, pictures = list[Embedded](), list[Outcome](), list[Prepared]()
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
                pictures.append(again)
        computed, seconds = self._with_vectors(pictures, waiting)
        return Computed(rows + computed, failed, seconds)

    def _prepared_without_donor(self, item: Prepared) -> Prepared | Outcome:
        return prepare(item.item, self._model.processor, lambda _: None, is_new=item.is_new)

    def _with_vectors(
        self, pictures: Sequence[Prepared], waiting: Mapping[str, Embedded]
    ) -> tuple[list[Embedded], float]:
        """Compute each content once, unless it waits to be committed already; and the seconds."""
        new: dict[str, Prepared] = {}
        for item in pictures:
            if item.row.sha256 not in waiting:
                new.setdefault(str(item.row.sha256), item)
        computed, seconds = self._encode(list(new.values()))
        each_ms = 1000 * seconds / max(1, len(new))
        vectors = {content: embedded.vector for content, embedded in waiting.items()}
        vectors |= dict(zip(new, computed, strict=True))
        rows = []
        for item in pictures:
            content = str(item.row.sha256)
            is_first = new.get(content) is item
            outcome = _outcome(item, "embedded" if is_first else "reused", item.row)
            if is_first:
                outcome = replace(outcome, encode_ms=each_ms)
            rows.append(Embedded(item.row, vectors[content], item.is_new, outcome))
        return rows, seconds

    def _encode(self, pictures: Sequence[Prepared]) -> tuple[NDArray[np.float32], float]:
        """Return (B, E) unit vectors, and the seconds that they took."""
        if not pictures:
            return np.empty((0, self._index.identity.embed_dim), np.float32), 0.0
        started = time.perf_counter()
        pixels = np.stack([item.resized for item in pictures if item.resized is not None])
        vectors = unit(self._model.backend.encode_image(pixels))
        return vectors, time.perf_counter() - started


def _reused(item: Prepared, donor: Row, vector: NDArray[np.float32]) -> Embedded:
    row = replace(item.row, width=donor.width, height=donor.height)
    return Embedded(row, vector, item.is_new, _outcome(item, "reused", row))


def _outcome(item: Prepared, status: Status, row: Row) -> Outcome:
    return Outcome(
        row.uri,
        status,
        member=row.member,
        offset=row.offset,
        bytes=row.bytes,
        mtime=row.mtime,
        decode_ms=item.decode_ms,
    )
