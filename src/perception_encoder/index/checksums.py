"""Checksums of the blocks of files, and mapped files that are checked where they are read.

The sum of a block adds its 64-bit words, each times an odd weight of its position, modulo 2^64. Any
change within one word changes the sum; any other change (a page of zeros, swapped pages) goes
unnoticed with a chance of 2^-64. NumPy computes it at 7 GB/s per core, zlib's CRC-32 at 2.5.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES: Final = 1 << 16
"""Bytes of one sum of a file that is read as a whole."""

PAGE_BYTES: Final = 1 << 12
"""Bytes of one sum of a mapped file: what the system reads at least, for a row or two."""

Sums: TypeAlias = NDArray[np.uint64]
"""(B,) uint64: the sums of a file's blocks; the last block may be shorter."""

_WORD: Final = 8
_READ_BYTES: Final = 64 * BLOCK_BYTES
Octets = NDArray[np.uint8]


def _weights() -> NDArray[np.uint64]:
    """Return odd numbers from SplitMix64. They must never change."""
    state = np.arange(1, BLOCK_BYTES // _WORD + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)


_WEIGHTS: Final = _weights()


class SearcherDamageError(Exception):
    """A searcher is damaged. The index handles it and searches without the searcher."""


class FileSum(NamedTuple):
    """A file's size in bytes and the checksum of its content."""

    size: int
    checksum: int


def sum_blocks(octets: NDArray[np.uint8], block_bytes: int = BLOCK_BYTES) -> Sums:
    """Return the sums of (N,) bytes that begin at a block."""
    whole = len(octets) // block_bytes * block_bytes
    weights = _WEIGHTS[: block_bytes // _WORD]
    words = octets[:whole].view("<u8").reshape(-1, len(weights))
    sums: Sums = np.einsum("bw,w->b", words, weights)
    if whole == len(octets):
        return sums
    last = np.zeros(block_bytes, np.uint8)
    last[: len(octets) - whole] = octets[whole:]
    return np.append(sums, np.einsum("w,w->", last.view("<u8"), weights))


def sum_blocks_of_file(
    path: str,
    progress: Callable[[int], object] = lambda _: None,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> Sums:
    """Return the sums of a file's blocks.

    Args:
        path: of the file.
        progress: called with the number of bytes read since the last call.
        block_bytes: of a block, `BLOCK_BYTES` or `PAGE_BYTES`.

    Raises:
        OSError: it cannot be read.
    """
    found = [np.empty(0, np.uint64)]
    buffer = np.empty(_READ_BYTES, np.uint8)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(
            buffer.data
        ):  # a short read is the end of a file of this machine
            found.append(sum_blocks(buffer[:count], block_bytes))
            progress(count)
    return np.concatenate(found)


def sum_file(path: str, progress: Callable[[int], object] = lambda _: None) -> FileSum:
    """Return the size and checksum of a file; `progress` as in `sum_blocks_of_file`.

    Raises:
        OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    return FileSum(size, checksum_of(sum_blocks_of_file(path, progress)))


def checksum_of(sums: Sums) -> int:
    """Return one checksum of all block sums."""
    return zlib.crc32(sums.astype("<u8").tobytes())


class CheckedFile:
    """A mapped file whose pages are checked before their first use. Threads may share it.

    Args:
        path: of the file.
        sums: of its pages; None for a file that was just written.

    Attributes:
        octets: (N,) uint8, mapped; check them before use.

    Raises:
        OSError: it cannot be mapped.
        ValueError: it is empty, or has another size.
    """

    def __init__(self, path: str, sums: Sums | None) -> None:
        self._path = path
        self._sums = sums
        with open(path, "rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.octets: Final[Octets] = np.frombuffer(self._mapped, np.uint8)
        num_pages = -(-len(self.octets) // PAGE_BYTES)
        if sums is not None and len(sums) != num_pages:
            raise ValueError(f"{path} has {num_pages} pages, not {len(sums)}")
        self._is_checked = np.full(num_pages, sums is None)

    @property
    def checked_share(self) -> float:
        """The share of the pages that have been checked."""
        return float(self._is_checked.mean())

    def fetch(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Have the system read ranges of bytes that are used next, all at the same time.

        Where a file is larger than the memory, each first use of a page waits for the disk, and
        reads 128 KiB around it.
        """
        if not hasattr(self._mapped, "madvise"):  # Windows
            return
        pages = (starts // mmap.PAGESIZE * mmap.PAGESIZE).tolist()
        for page, end in zip(pages, ends.tolist(), strict=True):
            self._mapped.madvise(mmap.MADV_WILLNEED, page, end - page)

    def check(self, start: int, end: int) -> None:
        """Check the bytes from `start` to before `end`.

        Raises:
            SearcherDamageError: they are not as they were written.
        """
        first, last = start // PAGE_BYTES, -(-end // PAGE_BYTES)
        self._check_pages(first + np.flatnonzero(~self._is_checked[first:last]))

    def check_rows(self, numbers: NDArray[np.int64], row_bytes: int) -> None:
        """Fetch some rows of equal length, and check them.

        Raises:
            SearcherDamageError: they are not as they were written.
        """
        firsts = numbers * row_bytes // PAGE_BYTES
        lasts = ((numbers + 1) * row_bytes - 1) // PAGE_BYTES
        most = int((lasts - firsts).max(initial=0))
        pages = np.unique(
            np.concatenate([np.minimum(firsts + more, lasts) for more in range(most + 1)])
        )
        self.fetch(pages * PAGE_BYTES, np.minimum((pages + 1) * PAGE_BYTES, len(self.octets)))
        self._check_pages(pages[~self._is_checked[pages]])

    def check_all(self) -> None:
        """Check the whole file.

        Raises:
            SearcherDamageError: it is not as it was written.
        """
        for start in range(0, len(self.octets), _READ_BYTES):
            self.check(start, min(start + _READ_BYTES, len(self.octets)))

    def _check_pages(self, pages: NDArray[np.int64]) -> None:
        """Check pages, ascending."""
        if self._sums is None or not pages.size:
            return
        is_wrong = self._sum(pages) != self._sums[pages]
        if is_wrong.any():
            place = int(pages[is_wrong][0]) * PAGE_BYTES
            raise SearcherDamageError(f"{self._path} is damaged at byte {place} or after it")
        self._is_checked[pages] = True

    def _sum(self, pages: NDArray[np.int64]) -> Sums:
        first, last = int(pages[0]), int(pages[-1]) + 1
        if last - first == len(pages):
            return sum_blocks(self.octets[first * PAGE_BYTES : last * PAGE_BYTES], PAGE_BYTES)
        num_whole = len(self.octets) // PAGE_BYTES
        whole = self.octets[: num_whole * PAGE_BYTES].reshape(-1, PAGE_BYTES)
        sums = sum_blocks(whole[pages[pages < num_whole]].ravel(), PAGE_BYTES)
        if last <= num_whole:
            return sums
        return np.append(sums, sum_blocks(self.octets[num_whole * PAGE_BYTES :], PAGE_BYTES))
