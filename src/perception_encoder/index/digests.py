"""A map from 128-bit digests to numbers that stays small: 24 bytes an entry, not a Python object.

A table of ten million rows is looked up by key and by content in a quarter of a gigabyte each.
Knows nothing of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

HEX_DIGITS: Final = 32
"""Of a digest; longer ones (SHA-256) are cut to it: two of them agree by chance once in 10^19
tables of ten million rows."""

_MAX_RECENT: Final = 1 << 16
_LARGE_SHARE: Final = 1 / 8  # of what is there: so many more are worth sorting all anew

_VALUES: Final = np.zeros(256, np.uint8)  # of hex digits by their character
_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def digests_of(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return (R, 2) uint64, high half first: the first 32 of each text's hex digits.

    Texts that are no hex digits may share a digest: compare them again where that matters.
    """
    joined = "".join(text[:HEX_DIGITS].ljust(HEX_DIGITS, "0") for text in texts).encode(
        "ascii", "replace"
    )
    return _digests(np.frombuffer(joined, np.uint8))


def digests_in(column: pa.StringArray) -> NDArray[np.uint64]:
    """Return the `digests_of` a column without nulls, with no Python object for each."""
    if not len(column):
        return digests_of([])
    _, offsets, characters = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset :][: len(column) + 1]
    octets = np.frombuffer(characters or b"", np.uint8)[: ends[-1]]
    if np.diff(ends).min() < HEX_DIGITS or octets.max() > ord("~"):  # no digests of ours
        return digests_of(column.to_pylist())
    return _digests(octets[ends[:-1, np.newaxis] + np.arange(HEX_DIGITS, dtype=np.int32)])


def _digests(characters: NDArray[np.uint8]) -> NDArray[np.uint64]:
    digits = _VALUES[characters].reshape(-1, 2)
    octets = (digits[:, 0] << 4) | digits[:, 1]
    return octets.reshape(-1, 16).view(">u8").astype(np.uint64)


class DigestMap:
    """Numbers by digest; of a digest that was added twice the later number counts.

    Adding and looking up are not safe at the same time from several threads.
    """

    def __init__(self) -> None:
        self._keys = np.empty((0, 2), np.uint64)  # sorted by the high half
        self._numbers = np.empty(0, np.int64)
        self._recent: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        self._merge()
        return len(self._keys)

    def add(self, digests: NDArray[np.uint64], numbers: NDArray[np.int64]) -> None:
        """Remember numbers.

        Args:
            digests: (R, 2) uint64, from `digests_of`.
            numbers: (R,) int64, at least 0.
        """
        if len(digests) > min(_MAX_RECENT, _LARGE_SHARE * len(self._keys)):
            self._merge()
            self._store(digests, numbers)
            return
        keys = map(tuple, digests.tolist())
        self._recent.update(zip(keys, numbers.tolist(), strict=True))
        if len(self._recent) > _MAX_RECENT:
            self._merge()

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return (Q,) int64: the number of each of the (Q, 2) digests, -1 where there is none."""
        found = self._find_stored(digests)
        if self._recent:
            for place, key in enumerate(map(tuple, digests.tolist())):
                number = self._recent.get(key)
                if number is not None:
                    found[place] = number
        return found

    def numbers(self) -> NDArray[np.int64]:
        """Return the number of every digest, in no particular order."""
        self._merge()
        return self._numbers

    def _find_stored(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        found = np.full(len(digests), -1, np.int64)
        if len(self._keys) == 0:
            return found
        first = np.searchsorted(self._keys[:, 0], digests[:, 0])
        waiting = np.arange(len(digests))
        while waiting.size:  # once, but for digests that share their high half
            place = first[waiting]
            inside = place < len(self._keys)
            waiting, place = waiting[inside], place[inside]
            same_high = self._keys[place, 0] == digests[waiting, 0]
            waiting, place = waiting[same_high], place[same_high]
            equal = self._keys[place, 1] == digests[waiting, 1]
            found[waiting[equal]] = self._numbers[place[equal]]
            waiting = waiting[~equal]
            first[waiting] += 1
        return found

    def _merge(self) -> None:
        if self._recent:
            digests = np.array(list(self._recent), np.uint64).reshape(-1, 2)
            numbers = np.fromiter(self._recent.values(), np.int64, len(self._recent))
            self._recent.clear()
            self._store(digests, numbers)

    def _store(self, digests: NDArray[np.uint64], numbers: NDArray[np.int64]) -> None:
        keys = np.concatenate([self._keys, digests])
        values = np.concatenate([self._numbers, numbers])
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equals the later comes last
        keys, values = keys[order], values[order]
        is_last = np.ones(len(keys), np.bool_)
        is_last[:-1] = (keys[1:] != keys[:-1]).any(axis=1)
        self._keys, self._numbers = keys[is_last], values[is_last]
