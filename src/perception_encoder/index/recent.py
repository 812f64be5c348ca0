"""The vectors of recent rows in memory: those that no searcher covers yet.

Each run adds fragments to the index, and every query has to look at them. Reading 10,000 vectors
takes longer than comparing a million with a searcher, and a fragment never changes except that rows
of it are deleted. So its vectors are kept as float16, up to a limit, for all versions of the index.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.exact import SLACK
from perception_encoder.index.schema import VECTOR
from perception_encoder.index.searcher.candidates import VectorScan
from perception_encoder.index.searcher.files import CoveredFragment
from perception_encoder.index.searcher.fragments import (
    OFFSETS,
    Coverage,
    Mask,
    ReadIds,
    list_fragments,
)
from perception_encoder.index.searcher.kernels import ScanHits
from perception_encoder.index.searcher.searcher import HALF_FLOAT
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance

MAX_BYTES: Final = 128 << 20
"""Of the vectors that are kept for an index: 65,536 rows of 1,024 numbers."""


@dataclass(frozen=True, eq=False)
class _Block:
    """The vectors of a fragment.

    Attributes:
        fragment: which it is.
        vectors: (R, E) float16; zeros where a row was deleted before they were read.
        is_read: (R,) bool: the others.
    """

    fragment: CoveredFragment
    vectors: NDArray[np.float16]
    is_read: Mask


class RecentVectors:
    """The vectors of an index that are kept. Several threads may share it.

    Args:
        max_bytes: the limit; what is above it is read for each query.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._blocks: dict[str, _Block] = {}
        self._is_asked = False

    def count_query(self) -> bool:
        """Return whether there was a query before: one alone gains nothing from kept vectors."""
        before, self._is_asked = self._is_asked, True
        return before

    def bind(
        self,
        dataset: lance.LanceDataset,
        parts: Sequence[lance.LanceFragment],
        read_ids: ReadIds,
    ) -> BoundRecentVectors:
        """Return the vectors of some fragments of a version; those of all others are let go.

        Args:
            dataset: the version.
            parts: the fragments.
            read_ids: reads the version.
        """
        wanted = {part.fragment_id: part for part in parts}
        fragments = [one for one in list_fragments(dataset) if one.id in wanted] if wanted else []
        embed_dim = int(dataset.schema.field(VECTOR).type.list_size)
        kept: dict[str, _Block] = {}
        left = self._max_bytes
        with self._lock:
            for fragment in fragments:
                num_bytes = 2 * embed_dim * fragment.num_rows
                if num_bytes > left:
                    continue
                left -= num_bytes
                part = wanted[fragment.id]
                block = self._blocks.get(fragment.file)
                if block is None or not _has_rows(block, fragment, part, read_ids):
                    block = _read_block(dataset, fragment, part, embed_dim)
                kept[fragment.file] = block
            self._blocks = kept
        return BoundRecentVectors(list(kept.values()), dataset, parts, read_ids)


class BoundRecentVectors:
    """The kept vectors of one version of the index.

    Attributes:
        coverage: their rows.
        others: the fragments that are not kept.
        slack: the largest error of a score.
    """

    def __init__(
        self,
        blocks: Sequence[_Block],
        dataset: lance.LanceDataset,
        parts: Sequence[lance.LanceFragment],
        read_ids: ReadIds,
    ) -> None:
        kept = {block.fragment.id for block in blocks}
        self.coverage: Final = Coverage([block.fragment for block in blocks], dataset, read_ids)
        self.others: Final = [part for part in parts if part.fragment_id not in kept]
        is_half = dataset.schema.field(VECTOR).type.value_type == "halffloat"
        self.slack: Final = SLACK if is_half else SLACK + HALF_FLOAT
        self._scan = VectorScan([block.vectors for block in blocks])

    def propose(
        self, queries: Embeddings, k: int, *, where: str | None, threshold: float | None
    ) -> list[ScanHits]:
        """Return the kept rows that may be among the best k for each of (Q, E) queries."""
        mask = self.coverage.alive if where is None else self.coverage.meeting(where)
        return self._scan.propose(queries, k, threshold, mask, self.slack)


def _has_rows(
    block: _Block, fragment: CoveredFragment, part: lance.LanceFragment, read_ids: ReadIds
) -> bool:
    """Return whether a block has all rows of a version; an earlier one may have more of them."""
    if block.is_read.all() or fragment == block.fragment:
        return True
    return bool(block.is_read[read_ids([part], None) & OFFSETS].all())


def _read_block(
    dataset: lance.LanceDataset,
    fragment: CoveredFragment,
    part: lance.LanceFragment,
    embed_dim: int,
) -> _Block:
    vectors = np.zeros((fragment.num_rows, embed_dim), np.float16)
    is_read = np.zeros(fragment.num_rows, np.bool_)
    for batch in dataset.scanner([VECTOR], fragments=[part], with_row_id=True).to_batches():
        offsets = batch["_rowid"].to_numpy().astype(np.int64) & OFFSETS
        vectors[offsets] = batch[VECTOR].flatten().to_numpy().reshape(-1, embed_dim)
        is_read[offsets] = True
    return _Block(fragment, vectors, is_read)
