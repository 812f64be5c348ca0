"""Mapped files that are compared with their checksums where they are read, and only there.

Every block is checked before its first use, so what a search reads is what was written, and a
search of a few rows of a large file stays as quick as reading these. Safe to use from several
threads.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.checksums import BLOCK_BYTES, Sums, block_sums
from perception_encoder.index.searcher.files import SearcherDamageError

Octets = NDArray[np.uint8]


class CheckedFile:
    """A mapped file.

    Args:
        path: of the file.
        sums: of its blocks; None while a searcher is being built, whose files were just written.

    Attributes:
        octets: (N,) uint8, mapped; to be checked before they are looked at.

    Raises:
        OSError: it cannot be mapped.
        ValueError: it is empty, or has another size.
    """

    def __init__(self, path: str, sums: Sums | None) -> None:
        self._path = path
        self._sums = sums
        self.octets: Final[Octets] = np.memmap(path, np.uint8, "r")
        num_blocks = -(-len(self.octets) // BLOCK_BYTES)
        if sums is not None and len(sums) != num_blocks:
            raise ValueError(f"{path} has {num_blocks} blocks, not {len(sums)}")
        self._is_checked = np.full(num_blocks, sums is None)

    @property
    def checked_share(self) -> float:
        """Of the blocks, how many have been checked."""
        return float(self._is_checked.mean())

    def check(self, start: int, end: int) -> None:
        """Make sure of the bytes from `start` to before `end`.

        Raises:
            DamageError: they are not what was written.
        """
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        waiting = first + np.flatnonzero(~self._is_checked[first:last])
        if waiting.size == last - first:
            self._check_blocks(first, last)  # all of them: quicker in one go
        else:
            self._check_each(waiting)

    def check_rows(self, numbers: NDArray[np.int64], row_bytes: int) -> None:
        """Make sure of some rows of equal length.

        Raises:
            DamageError: they are not what was written.
        """
        if self._is_checked.all():
            return
        firsts = numbers * row_bytes // BLOCK_BYTES
        lasts = ((numbers + 1) * row_bytes - 1) // BLOCK_BYTES
        most = int((lasts - firsts).max(initial=0))
        touched = np.unique(
            np.concatenate([np.minimum(firsts + more, lasts) for more in range(most + 1)])
        )
        self._check_each(touched[~self._is_checked[touched]])

    def check_all(self) -> None:
        """Make sure of all of it.

        Raises:
            DamageError: it is not what was written.
        """
        step = 64
        for first in range(0, len(self._is_checked), step):
            self.check(first * BLOCK_BYTES, min((first + step) * BLOCK_BYTES, len(self.octets)))

    def _check_each(self, blocks: NDArray[np.int64]) -> None:
        for block in blocks.tolist():
            self._check_blocks(block, block + 1)

    def _check_blocks(self, first: int, last: int) -> None:
        if self._sums is None:
            return
        found = block_sums(self.octets[first * BLOCK_BYTES : last * BLOCK_BYTES])
        if not np.array_equal(found, self._sums[first:last]):
            wrong = first + int(np.flatnonzero(found != self._sums[first:last])[0])
            raise SearcherDamageError(
                f"{self._path} is damaged at byte {wrong * BLOCK_BYTES} or after it"
            )
        self._is_checked[first:last] = True
