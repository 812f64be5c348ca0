"""Maps the rows of a searcher to those of a version of the index.

Lance identifies a row by its fragment and its offset there. A searcher numbers the rows of its
fragments consecutively, deleted ones included. Rows of a fragment never move or change (an update
deletes a row and adds another), so a searcher is valid for a fragment while the index has it with
the same data file; only deletions are looked up.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.schema import VECTOR
from perception_encoder.index.searcher.files import CoveredFragment

if TYPE_CHECKING:
    import lance

_OFFSET_BITS: Final = 32
OFFSETS: Final = (1 << _OFFSET_BITS) - 1
"""The bits of a row id that count rows within a fragment."""

_MOST_MASKS: Final = 16  # of conditions asked before, R / 8 bytes each
_CHANGES: Final = re.compile(r"\b(now|today|current_\w+|random|uuid)\b", re.IGNORECASE)
"""Finds conditions that other rows may meet a moment later."""

RowPositions: TypeAlias = NDArray[np.int64]
"""(R,) int64: row numbers of a searcher."""

RowIds: TypeAlias = NDArray[np.int64]
"""(R,) int64: Lance's row ids in one version of the index."""

Mask: TypeAlias = NDArray[np.bool_]
"""(R,) bool: which of a searcher's rows take part."""

ReadIds: TypeAlias = "Callable[[list[lance.LanceFragment], str | None], RowIds]"
"""Returns the ids of rows in fragments that are not deleted and meet a condition."""


def list_fragments(dataset: lance.LanceDataset) -> list[CoveredFragment]:
    """Return the fragments of a version whose vectors are in one file each."""
    field = next(field.id() for field in dataset.lance_schema.fields() if field.name() == VECTOR)
    found = []
    for fragment in dataset.get_fragments():
        metadata = fragment.metadata
        paths = [file.path for file in metadata.files if field in file.fields]
        if len(paths) == 1 and not metadata.overlays:
            covered = CoveredFragment(
                id=fragment.fragment_id,
                file=paths[0],
                num_rows=int(fragment.physical_rows),
                num_deleted=int(fragment.num_deletions),
            )
            found.append(covered)
    return found


class Coverage:
    """The fragments of a searcher and of one version of the index.

    Args:
        fragments: the searcher's, in its order.
        dataset: the version.
        read_ids: reads that version.
    """

    def __init__(
        self, fragments: Sequence[CoveredFragment], dataset: lance.LanceDataset, read_ids: ReadIds
    ) -> None:
        self._read_ids = read_ids
        self._lock = threading.Lock()
        self._masks: dict[str, NDArray[np.uint8]] = {}  # bits, by condition, the newest last
        self._starts: NDArray[np.int64] = np.cumsum(
            [0, *(fragment.num_rows for fragment in fragments)]
        )
        self._ids: NDArray[np.int64] = np.array([fragment.id for fragment in fragments], np.int64)
        self._order = np.argsort(self._ids)
        present = {fragment.id: fragment for fragment in list_fragments(dataset)}
        self._kept = {
            fragment.id: number
            for number, fragment in enumerate(fragments)
            if fragment.id in present and present[fragment.id].file == fragment.file
        }
        parts = dataset.get_fragments()
        self._covered = [part for part in parts if part.fragment_id in self._kept]
        self.others: Final = [part for part in parts if part.fragment_id not in self._kept]
        self._deleting = [part for part in self._covered if present[part.fragment_id].num_deleted]
        self.alive: Final = self._alive()
        self._firsts = self._first_positions(parts)

    @property
    def num_rows(self) -> int:
        """Number of the searcher's rows, in this version or not."""
        return int(self._starts[-1])

    def meeting(self, where: str) -> Mask:
        """Return which rows are in this version and meet a condition.

        The last conditions are remembered: reading a column takes longer than comparing the few
        rows that meet it.
        """
        with self._lock:
            bits = self._masks.get(where)
        if bits is not None:
            return np.unpackbits(bits, count=self.num_rows).view(np.bool_)
        mask = np.zeros(self.num_rows, np.bool_)
        if self._covered:
            mask[self._numbers(self._read_ids(self._covered, where))] = True
        if not _CHANGES.search(where):
            with self._lock:
                self._masks[where] = np.packbits(mask)
                while len(self._masks) > _MOST_MASKS:
                    del self._masks[next(iter(self._masks))]
        return mask

    def row_ids(self, numbers: RowPositions) -> RowIds:
        """Return Lance's ids of rows."""
        part = np.searchsorted(self._starts, numbers, side="right") - 1
        ids: RowIds = (self._ids[part] << _OFFSET_BITS) | (numbers - self._starts[part])
        return ids

    def positions(self, numbers: RowPositions) -> NDArray[np.int64]:
        """Return the positions of rows in the version, as `LanceDataset.take` counts.

        No row of the searcher may be gone, see `alive`.
        """
        part = np.searchsorted(self._starts, numbers, side="right") - 1
        positions: NDArray[np.int64] = self._firsts[part] + numbers - self._starts[part]
        return positions

    def _first_positions(self, parts: list[lance.LanceFragment]) -> NDArray[np.int64]:
        """Return the position of the first row of each of the searcher's fragments."""
        firsts: dict[int, int] = {}
        first = 0
        for part in parts:
            firsts[part.fragment_id] = first
            first += part.physical_rows - part.num_deletions
        return np.array([firsts.get(int(fragment), 0) for fragment in self._ids], np.int64)

    def _alive(self) -> Mask | None:
        """Return which rows are in this version; None for all."""
        if len(self._kept) == len(self._ids) and not self._deleting:
            return None
        mask = np.zeros(self.num_rows, np.bool_)
        for number in self._kept.values():
            mask[self._starts[number] : self._starts[number + 1]] = True
        for part in self._deleting:
            number = self._kept[part.fragment_id]
            mask[self._starts[number] : self._starts[number + 1]] = False
        if self._deleting:
            mask[self._numbers(self._read_ids(self._deleting, None))] = True
        return mask

    def _numbers(self, row_ids: RowIds) -> RowPositions:
        """Return the searcher's numbers of rows."""
        fragments = row_ids >> _OFFSET_BITS
        part = self._order[np.searchsorted(self._ids[self._order], fragments)]
        numbers: RowPositions = self._starts[part] + (row_ids & OFFSETS)
        return numbers
