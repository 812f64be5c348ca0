"""Brings files of vectors into a table: checked, brought to unit length, and no picture twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import ExchangeError, IndexMismatchError
from perception_encoder.index.digests import DigestMap, digests_in, digests_of
from perception_encoder.index.exchange.streams import Block, Incoming
from perception_encoder.index.lock import writing
from perception_encoder.index.schema import VectorDtype, described_mismatch
from perception_encoder.index.table import Index
from perception_encoder.types import Embeddings, ModelIdentity

_UNIT_TOLERANCE: Final = 1e-2  # what a table takes as it is; float16 stays far below
_SHORTEST: Final = 1e-6


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        num_added: rows that are new to the table.
        num_replaced: rows that took the place of one of the same picture, there or in the files.
        num_normalised: vectors that were not of unit length and have been brought to it.
    """

    num_added: int
    num_replaced: int
    num_normalised: int


def import_table(
    source: Incoming,
    path: str | os.PathLike[str],
    *,
    identity: ModelIdentity | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Imported:
    """Add the rows of files to a table, which is made where there is none.

    Every block is one commit; after an interruption, importing again completes the table. A new
    table stores vectors as the one did that was exported, else as float16.

    Args:
        source: from `open_source`.
        path: of the table.
        identity: whose vectors they are; needed where the files do not say it, checked where they
            do.
        progress: told of how many rows were done since the last call.

    Raises:
        ExchangeError: nobody says whose vectors they are, their length is another, or a vector has
            none; what came before it is in the table.
        IndexMismatchError: the files, the table and `identity` are not of one model.
        IndexBusyError: another process is writing to the table.
        IndexStorageError: writing failed.
    """
    identity = _agreed(source, identity)
    location = os.fspath(path)
    dtype: VectorDtype = source.provenance.vector_dtype if source.provenance else "float16"
    with writing(location):
        index = Index.open_or_prepare(location, identity, vector_dtype=dtype)
        index.ensure_created()
        known = _Known(index)
        num_replaced = num_normalised = done = 0
        for block in source.blocks():
            vectors, num_off = _of_unit_length(block.vectors, source.path, done)
            num_replaced += _commit(index, known, Block(block.rows, vectors))
            num_normalised += num_off
            done += len(block.rows)
            progress(len(block.rows))
    return Imported(done - num_replaced, num_replaced, num_normalised)


class _Known:
    """The keys of the table's rows: 24 bytes each."""

    def __init__(self, index: Index) -> None:
        self._ids = DigestMap()
        for batch in index.scan(["id"]):
            self._add(digests_in(batch["id"]))

    def add(self, ids: Iterable[str]) -> None:
        self._add(digests_of(list(ids)))

    def has(self, ids: Iterable[str]) -> list[bool]:
        return [bool(number >= 0) for number in self._ids.find(digests_of(list(ids)))]

    def _add(self, digests: NDArray[np.uint64]) -> None:
        self._ids.add(digests, np.zeros(len(digests), np.int64))


def _commit(index: Index, known: _Known, block: Block) -> int:
    """Add a block's rows; return how many of them replaced others."""
    last = {row.id: place for place, row in enumerate(block.rows)}  # of two the later counts
    is_known = dict(zip(last, known.has(last), strict=True))
    new = [place for key, place in last.items() if not is_known[key]]
    old = [place for key, place in last.items() if is_known[key]]
    index.append([block.rows[place] for place in new], block.vectors[new])
    if old:
        index.add([block.rows[place] for place in old], block.vectors[old])
    known.add(last)
    return len(block.rows) - len(new)


def _agreed(source: Incoming, identity: ModelIdentity | None) -> ModelIdentity:
    stated = None if source.provenance is None else source.provenance.identity
    if stated is not None and identity is not None and stated != identity:
        raise IndexMismatchError(described_mismatch(source.path, stated, identity))
    agreed = stated or identity
    if agreed is None:
        raise ExchangeError(
            f"{source.path} does not say which model its vectors are of; name it with --model"
        )
    if source.num_rows and source.embed_dim != agreed.embed_dim:
        raise ExchangeError(
            f"{source.path}: its vectors have {source.embed_dim} numbers, those of "
            f"{agreed.model_id} have {agreed.embed_dim}; name the model that made them"
        )
    return agreed


def _of_unit_length(vectors: Embeddings, path: str, done: int) -> tuple[Embeddings, int]:
    """Return the vectors as float32 of unit length, and how many were not.

    Those that are but for rounding stay as they are, so that a table that was exported comes back
    bit for bit.
    """
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > _SHORTEST)))
    if wrong.size:
        number = int(wrong[0])
        raise ExchangeError(
            f"{path}: vector number {done + number} has length {lengths[number, 0]:.3g} and can be "
            "compared with nothing; remove it with its row"
        )
    is_off = np.abs(lengths[:, 0] - 1) >= _UNIT_TOLERANCE
    if is_off.any():
        vectors = np.where(is_off[:, None], vectors / lengths, vectors)
    return vectors, int(is_off.sum())
