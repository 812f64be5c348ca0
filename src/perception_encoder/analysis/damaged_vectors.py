"""Rows of an index whose vectors say nothing: NaN, zeros, or not of unit length.

No program of ours writes such vectors. Damage of the files does, and so may other programs. One of
them would make clusters, maps and cosines wrong without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import IndexStorageError
from perception_encoder.index import Index, Row
from perception_encoder.index.schema import VECTOR, rows_of, vectors_of
from perception_encoder.types import Embeddings

Checkpoint: TypeAlias = Callable[[], None]
"""Is called between blocks of work; what it raises ends the work."""
REASON: Final = "its vector in the index is damaged (not of unit length); make the index anew"
MOST_DAMAGED: Final = 500
"""So many rows can be left out by a condition; an index with more is damaged as a whole."""

_TOLERANCE: Final = 1e-2  # as at writing; rounding to float16 stays far below


def go_on() -> None:
    """Let the work go on: the checkpoint of whoever has none."""


def is_damaged(vectors: Embeddings) -> NDArray[np.bool_]:
    """Return (R,) bool: which rows of (R, E) are not of unit length."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
        is_unit: NDArray[np.bool_] = np.abs(lengths - 1) < _TOLERANCE
        return ~is_unit


def damaged_rows(index: Index, where: str | None, checkpoint: Checkpoint = go_on) -> list[Row]:
    """Read all vectors, and return the rows of those that are damaged.

    Args:
        index: the index.
        where: an SQL condition; other rows are left out.
        checkpoint: called for each block; may raise to end the reading.

    Raises:
        IndexStorageError: there are more than `MOST_DAMAGED`.
        QueryError: the condition is wrong.
    """
    found: list[Row] = []
    columns = [name for name in ("uri", "member", "offset") if name in index.schema.names]
    for batch in index.scan([*columns, VECTOR], where=where):
        checkpoint()
        damaged = np.flatnonzero(is_damaged(vectors_of(batch)))
        if damaged.size:
            found += rows_of(batch.take(damaged))
        if len(found) > MOST_DAMAGED:
            raise IndexStorageError(
                f"{index.path}: more than {MOST_DAMAGED} vectors are damaged, such as that of "
                f"{found[0].name}; make the index anew"
            )
    return found


class ReadBlock(NamedTuple):
    """Neighboring rows of an index.

    Attributes:
        rows: N of them; of metadata nothing is read.
        vectors: (N, E) float32, unit length.
        damaged: rows among them whose embeddings are damaged.
    """

    rows: list[Row]
    vectors: Embeddings
    damaged: list[Row]


def read_blocks(index: Index, where: str | None = None) -> Iterator[ReadBlock]:
    """Read an index's rows with their embeddings; those that are damaged are set apart.

    Raises:
        QueryError: the condition is wrong.
    """
    columns = [name for name in ("uri", "member", "offset") if name in index.schema.names]
    for batch in index.scan([*columns, VECTOR], where=where):
        rows, vectors = list(rows_of(batch)), vectors_of(batch)
        is_bad = is_damaged(vectors)
        yield ReadBlock(
            [rows[place] for place in np.flatnonzero(~is_bad).tolist()],
            vectors[~is_bad],
            [rows[place] for place in np.flatnonzero(is_bad).tolist()],
        )


def without(rows: list[Row], where: str | None) -> str | None:
    """Return a condition that leaves some rows out beside what another one leaves out."""
    if not rows:
        return where
    ids = ", ".join(f"'{row.id}'" for row in rows)
    condition = f"id NOT IN ({ids})"
    return f"({where}) AND {condition}" if where else condition
