"""Finds rows that may be nearest to a query: among all rows, or in the lists nearest to it.

The scan looks at every row of a float16 matrix in a mapped file. Lists are approximate: each
gathers the rows around a center, as codes of one bit per number (faiss's IndexIVFRaBitQ). Lists
are chosen by the best score that is likely in each: that of its center, and more where its rows
are far apart. All centers are compared in fewer dimensions, those in which the vectors differ most,
and the best of them in all. Scores are rough, and the caller computes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.checksums import CheckedFile
from perception_encoder.index.exact import product
from perception_encoder.index.searcher.fragments import Mask, RowPositions
from perception_encoder.index.searcher.kernels import (
    RowScanner,
    ScanHits,
    Selector,
    centers_of,
    find_list,
    make_selector,
    read_mapped_index,
    search_lists,
)
from perception_encoder.types import Embeddings

_CHUNK_BYTES: Final = 4 << 20  # small enough to stay in a cache for the next query
_SPARE: Final = 16  # more than k, to find rows within rounding of the last one at once
_MORE: Final = 8
_RARE: Final = 128  # of so many rows one takes part: reading it takes no longer than passing them
_READ_ROWS: Final = 4096
_MOST_SCORES: Final = 1 << 24
_LIKELY: Final = 4  # lists are compared in all dimensions for each that is searched


class VectorScan:
    """Compares queries with every row of some blocks of float16 vectors, in several threads.

    Args:
        blocks: (R, E) each; their rows are numbered one after the other.
        check: called with the first and the last byte of what is read next, if there is one block.
    """

    def __init__(
        self,
        blocks: Sequence[NDArray[np.float16]],
        check: Callable[[int, int], object] | None = None,
    ) -> None:
        self._blocks = blocks
        self._check = check
        self._num_threads = _count_threads()
        self._pool = ThreadPoolExecutor(self._num_threads, "pe-search")

    def nearest(self, queries: Embeddings, k: int, mask: Mask | None) -> list[ScanHits]:
        """Return the k rows with the largest product for each query, or fewer.

        Args:
            queries: (Q, E) float32.
            k: how many rows.
            mask: the rows that take part; None for all.

        Raises:
            SearcherDamageError: the rows are not as they were written.
        """
        chunks = iter(list(self._chunks(mask)))  # a free thread takes the next one
        selector = make_selector(mask)

        def scan(scanner: RowScanner) -> None:
            for first, chunk, start in chunks:
                if self._check is not None:
                    self._check(start * chunk[0].nbytes, (start + len(chunk)) * chunk[0].nbytes)
                scanner.scan(chunk, first)

        scanners = [RowScanner(queries, k, selector) for _ in range(self._num_threads)]
        list(self._pool.map(scan, scanners))
        return [
            merge_hits([scanner.hits[query] for scanner in scanners], k)
            for query in range(len(queries))
        ]

    def propose(
        self, queries: Embeddings, k: int, threshold: float | None, mask: Mask | None, slack: float
    ) -> list[ScanHits]:
        """Return all rows that may be among the best k of each query, and few others.

        Args:
            queries: (Q, E) float32.
            k: the number of results.
            threshold: the lowest score of a result.
            mask: the rows that take part; None for all.
            slack: the largest error of a score.
        """
        number, num_rows = k + _SPARE, sum(map(len, self._blocks))
        while True:
            found = self.nearest(queries, number, mask)
            proposed = [keep_promising(result, k, threshold, slack) for result in found]
            if all(
                len(result.scores) < number or len(some.scores) < number
                for result, some in zip(found, proposed, strict=True)
            ):
                return proposed
            number = min(number * _MORE, num_rows + 1)  # many have equal scores

    def _chunks(self, mask: Mask | None) -> Iterator[tuple[int, NDArray[np.float16], int]]:
        """Yield the number of the first row of a chunk, the chunk, and its place in its block."""
        first = 0
        for block in self._blocks:
            step = max(1, _CHUNK_BYTES // (2 * block.shape[1]))
            for start in range(0, len(block), step):
                chunk = block[start : start + step]
                number = first + start
                if mask is None or mask[number : number + len(chunk)].any():
                    yield number, chunk, start
            first += len(block)


class MappedVectors:
    """The matrix, (R, E) float16, of a mapped file.

    Raises:
        ValueError: the file has another size.
    """

    def __init__(self, file: CheckedFile, num_rows: int, embed_dim: int) -> None:
        self._file = file
        self._row_bytes = 2 * embed_dim
        self.matrix: Final[NDArray[np.float16]] = file.octets.view(np.float16).reshape(
            num_rows, embed_dim
        )
        self._scan = VectorScan([self.matrix], file.check)

    def propose(
        self, queries: Embeddings, k: int, threshold: float | None, mask: Mask | None, slack: float
    ) -> list[ScanHits]:
        """Return all rows that may be among the best k of each query, see `VectorScan.propose`.

        Where few rows take part, only their pages are read.
        """
        count = len(self.matrix) if mask is None else int(np.count_nonzero(mask))
        if mask is None or count * _RARE > len(mask) or count * len(queries) > _MOST_SCORES:
            return self._scan.propose(queries, k, threshold, mask, slack)
        numbers = np.flatnonzero(mask)
        scores = np.empty((len(queries), count), np.float32)
        for start in range(0, count, _READ_ROWS):
            vectors = self.rows(numbers[start : start + _READ_ROWS])
            for row, query in zip(scores, queries, strict=True):
                row[start : start + len(vectors)] = product(vectors, query)
        orders = np.argsort(-scores, axis=1, kind="stable")
        return [
            keep_promising(ScanHits(row[order], numbers[order]), k, threshold, slack)
            for row, order in zip(scores, orders, strict=True)
        ]

    def rows(self, numbers: RowPositions) -> Embeddings:
        """Return some rows as (N, E) float32.

        Raises:
            SearcherDamageError: they are not as they were written.
        """
        self._file.check_rows(numbers, self._row_bytes)
        return to_float32(self.matrix[numbers])


@dataclass(frozen=True)
class CoarseSearch:
    """Chooses the lists for a query.

    Attributes:
        projection: (E, d) float32: orthogonal directions.
        centers: (num_lists, E) float32: means of the lists.
        outlines: (num_lists, d) float32: the same, projected.
        reach: (num_lists,) float32: by how much the best row of a list is likely to exceed its
            center.
    """

    projection: NDArray[np.float32]
    centers: NDArray[np.float32]
    outlines: NDArray[np.float32]
    reach: NDArray[np.float32]

    @classmethod
    def load(cls, path: str, centers: NDArray[np.float32]) -> Self:
        """Read what `save` wrote; the file has been checked.

        Raises:
            OSError: there is no such file.
        """
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["projection"], centers, arrays["outlines"], arrays["reach"])

    def save(self, path: str) -> None:
        """Write an .npz file to exactly this path, without the centers, which the lists have."""
        with open(path, "wb") as file:
            np.savez(file, projection=self.projection, outlines=self.outlines, reach=self.reach)

    def nearest(self, query: NDArray[np.float32], probes: int) -> NDArray[np.int64]:
        """Return the numbers of the lists that are likely to hold the best rows, best first."""
        scores = product(self.outlines, product(self.projection.T, query)) + self.reach
        likely = _largest(scores, _LIKELY * probes)
        scores = product(self.centers[likely], query) + self.reach[likely]
        best = _largest(scores, probes)
        return likely[best[np.argsort(-scores[best])]]


class Lists:
    """The lists in a mapped file.

    Args:
        file: written by `ListFiller`.
        start: where the lists begin in it; 0 if that is not known yet.
        coarse: the file by which lists are chosen.
        num_rows: the number of rows that the searcher covers.

    Raises:
        SearcherDamageError: the file is damaged.
        ValueError: it belongs to another index.
    """

    def __init__(self, file: CheckedFile, start: int, coarse: str, num_rows: int) -> None:
        self._file = file
        file.check(0, start)
        self._index = index = read_mapped_index(file.octets)
        self._coarse = CoarseSearch.load(coarse, centers_of(index))
        self._is_checked = np.zeros(index.nlist, np.bool_)
        found = (index.d, index.nlist)
        expected = (self._coarse.projection.shape[0], len(self._coarse.outlines))
        self._num_threads = _count_threads()
        self._pool = ThreadPoolExecutor(self._num_threads, "pe-search")
        if found != expected or index.ntotal > num_rows:
            raise ValueError(f"the lists are of another shape: {found}, not {expected}")

    @property
    def num_lists(self) -> int:
        """The number of lists."""
        return len(self._coarse.centers)

    @property
    def start(self) -> int:
        """Where the lists begin in their file."""
        return min(
            (start for start, end in map(self._find, range(self._index.nlist)) if end), default=0
        )

    def candidates(
        self, query: NDArray[np.float32], number: int, probes: int, selector: Selector
    ) -> RowPositions:
        """Return rows that may be near to a query, the most promising first.

        Args:
            query: (E,) float32.
            number: at most so many rows.
            probes: how many lists to search.
            selector: the rows that take part.

        Raises:
            SearcherDamageError: the lists are not as they were written.
        """
        query = np.ascontiguousarray(query)
        lists = self._coarse.nearest(query, probes)
        self._check(lists)
        shares = (lists[thread :: self._num_threads] for thread in range(self._num_threads))
        own, *others = (np.ascontiguousarray(share) for share in shares if len(share))
        waiting = [
            self._pool.submit(search_lists, self._index, query, share, number, selector)
            for share in others
        ]
        hits = [search_lists(self._index, query, own, number, selector)]  # before a thread wakes up
        hits += [part.result() for part in waiting]
        return merge_hits(hits, number).numbers

    def _check(self, lists: NDArray[np.int64]) -> None:
        waiting = lists[~self._is_checked[lists]].tolist()
        if not waiting:
            return
        bounds = [self._find(number) for number in waiting]
        self._file.fetch(*np.array(bounds, np.int64).T)
        for number, (start, end) in zip(waiting, bounds, strict=True):
            self._file.check(start, end)
            self._is_checked[number] = True

    def _find(self, number: int) -> tuple[int, int]:
        return find_list(self._index, number, self._file.octets)


def _largest(scores: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """Return the places of the largest scores, in no order."""
    number = min(number, len(scores))
    return np.argpartition(-scores, number - 1)[:number].astype(np.int64)


def to_float32(halves: NDArray[np.float16]) -> Embeddings:
    """Return finite half floats as float32, exactly, in a fifth of the time of NumPy's cast.

    Sign, exponent and fraction are moved to their places in a float32, whose exponent then counts
    from 127 instead of 15.
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= ~0x70000000  # copies of the sign
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats


def keep_promising(found: ScanHits, k: int, threshold: float | None, slack: float) -> ScanHits:
    """Keep the sorted rows that may be among the best k; scores are wrong by `slack` at most."""
    floor = -np.inf if threshold is None else threshold
    if len(found.scores) >= k:
        floor = max(floor, float(found.scores[k - 1]))
    count = int(np.count_nonzero(found.scores >= floor - slack))
    return ScanHits(found.scores[:count], found.numbers[:count])


def merge_hits(parts: Sequence[ScanHits], k: int) -> ScanHits:
    """Return the best k of several results for one query; row -1 stands for none."""
    scores = np.concatenate([part.scores for part in parts])
    numbers = np.concatenate([part.numbers for part in parts])
    order = np.lexsort((numbers, -scores))
    order = order[numbers[order] >= 0][:k]
    return ScanHits(scores[order], numbers[order])


def _count_threads() -> int:
    import faiss

    return max(1, int(faiss.omp_get_max_threads()))
