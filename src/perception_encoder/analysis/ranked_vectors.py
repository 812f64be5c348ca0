"""The vectors of ranked pictures, read from the table as they are needed, never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from perception_encoder.analysis.checkpoint import Checkpoint, go_on
from perception_encoder.analysis.damaged_vectors import REASON, is_damaged
from perception_encoder.analysis.preference import Numbers, RankedPictures
from perception_encoder.errors import IndexStorageError
from perception_encoder.index import Index
from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.types import Embeddings


class RankedVectors:
    """Vectors by the pictures' numbers; each reading is one pass over the table.

    Args:
        index: the table.
        pictures: of it.
        where: the condition that `pictures` was made with.
        checkpoint: is called for each block.
    """

    def __init__(
        self,
        index: Index,
        pictures: RankedPictures,
        where: str | None,
        checkpoint: Checkpoint = go_on,
    ) -> None:
        self.checkpoint: Final = checkpoint
        self.embed_dim: Final = index.identity.embed_dim
        self._index = index
        self._pictures = pictures
        self._where = where

    def read(self, wanted: Numbers) -> Embeddings:
        """Return (C, E) float32: the vectors of the wanted pictures, (C,), in that order."""
        places = np.empty(len(self._pictures), np.int64)
        places[wanted] = np.arange(len(wanted))
        vectors = np.empty((len(wanted), self.embed_dim), np.float32)
        for numbers, block in self.blocks(wanted):
            vectors[places[numbers]] = block
        return vectors

    def blocks(self, wanted: Numbers) -> Iterator[tuple[Numbers, Embeddings]]:
        """Yield the wanted pictures' numbers and vectors, in the table's order.

        Raises:
            IndexStorageError: one of them is damaged; see `damaged_vectors`.
        """
        is_wanted = np.zeros(len(self._pictures), np.bool_)
        is_wanted[wanted] = True
        start = 0
        for batch in self._index.scan([VECTOR], where=self._where):
            self.checkpoint()
            numbers = self._pictures.numbers[start : start + batch.num_rows]
            start += batch.num_rows
            rows = np.flatnonzero(is_wanted[numbers])
            if rows.size:
                vectors = vectors_of(batch.take(rows))
                damaged = np.flatnonzero(is_damaged(vectors))
                if damaged.size:
                    row = self._pictures.row(int(numbers[rows[damaged[0]]]))
                    raise IndexStorageError(f"{self._index.path}: {row.name}: {REASON}")
                yield numbers[rows], vectors
