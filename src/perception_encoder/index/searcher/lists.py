"""Approximate search: which few rows of many deserve a look. Knows no index and no files' meaning.

Rows lie in lists, each around a center, as codes of one bit a number (faiss's IndexIVFRaBitQ). A
query looks into the lists whose centers are nearest to it and proposes candidates; their scores
are rough, and the caller scores them again with the vectors. Centers are compared in a space of
fewer numbers, which the vectors' main directions span: with so many lists, that is where most of
the time of building and much of a query's would go.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.checksums import CheckedFile
from perception_encoder.index.exact import product
from perception_encoder.index.searcher.fragments import RowPositions
from perception_encoder.index.searcher.scan import ScanHits, Selector, merge_hits

_QUERY_BITS: Final = 4  # how finely a query is rounded; 8 find no more and take longer


@dataclass(frozen=True)
class CoarseSearch:
    """How the lists for a query are chosen.

    Attributes:
        projection: (E, d) float32: orthogonal directions.
        centers: (num_lists, d) float32, of unit length.
    """

    projection: NDArray[np.float32]
    centers: NDArray[np.float32]

    @classmethod
    def load(cls, path: str) -> Self:
        """Read what `save` wrote, which was checked.

        Raises:
            OSError: there is no such file.
        """
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["projection"], arrays["centres"])

    def save(self, path: str) -> None:
        """Write an .npz file, whatever the path ends with."""
        with open(path, "wb") as file:
            np.savez(file, projection=self.projection, centres=self.centers)  # as in format 2

    def nearest(self, query: NDArray[np.float32], probes: int) -> NDArray[np.int64]:
        """Return the numbers of the lists whose centers are nearest to a query, best first."""
        scores = product(self.centers, product(self.projection.T, query))
        probes = min(probes, len(scores))
        nearest = np.argpartition(-scores, probes - 1)[:probes]
        return nearest[np.argsort(-scores[nearest])].astype(np.int64)


class Lists:
    """The lists in a file that is mapped, not read, but for what comes before them.

    Args:
        file: where `ListFiller` wrote them.
        start: where they begin in it, from `start`; 0 where that is not known yet.
        coarse: chooses lists.
        num_rows: of the index's part that is covered.

    Raises:
        SearcherDamageError: the file is damaged.
        ValueError: it is of another index.
    """

    def __init__(self, file: CheckedFile, start: int, coarse: CoarseSearch, num_rows: int) -> None:
        import faiss

        self._coarse = coarse
        self._file = file
        file.check(0, start)
        readers: Any = faiss  # its types do not know this one
        reader = readers.ZeroCopyIOReader(faiss.swig_ptr(file.octets), len(file.octets))
        try:
            index: Any = faiss.read_index(reader)
        except RuntimeError as err:  # what faiss's exceptions become
            raise ValueError(f"the lists cannot be read: {err}") from err
        self._index = index
        self._is_checked = np.zeros(index.nlist, np.bool_)
        found = (index.d, index.nlist)
        expected = (coarse.projection.shape[0], len(coarse.centers))
        self._num_threads = max(1, int(faiss.omp_get_max_threads()))
        self._pool = ThreadPoolExecutor(self._num_threads, "pe-search")
        if found != expected or index.ntotal > num_rows:
            raise ValueError(f"the lists are of another shape: {found}, not {expected}")

    @property
    def num_lists(self) -> int:
        """How many lists there are."""
        return len(self._coarse.centers)

    @property
    def start(self) -> int:
        """Where the lists begin in their file."""
        return min(
            (start for start, end in map(self._place, range(self._index.nlist)) if end), default=0
        )

    def candidates(
        self, query: NDArray[np.float32], number: int, probes: int, selector: Selector
    ) -> RowPositions:
        """Return rows that may be near to a query, (E,), the most promising first.

        Args:
            query: float32.
            number: at most so many.
            probes: how many lists are looked into.
            selector: which rows take part.

        Raises:
            SearcherDamageError: the lists are not what was written.
        """
        lists = self._coarse.nearest(np.ascontiguousarray(query), probes)
        self._check(lists)
        shares = (lists[thread :: self._num_threads] for thread in range(self._num_threads))
        own, *others = (np.ascontiguousarray(share) for share in shares if len(share))
        waiting = [
            self._pool.submit(self._look_into, share, query, number, selector) for share in others
        ]
        found = [self._look_into(own, query, number, selector)]  # sooner than a thread wakes up
        found += [part.result() for part in waiting]
        return merge_hits(found, number).numbers

    def _check(self, lists: NDArray[np.int64]) -> None:
        for number in lists[~self._is_checked[lists]].tolist():
            self._file.check(*self._place(number))
            self._is_checked[number] = True

    def _place(self, number: int) -> tuple[int, int]:
        """Return where a list's codes begin in the file, and where the ids behind them end."""
        lists = self._index.invlists
        size = lists.list_size(number)
        if not size:
            return 0, 0
        base = self._file.octets.ctypes.data
        return int(lists.get_codes(number)) - base, int(lists.get_ids(number)) + 8 * size - base

    def _look_into(
        self, lists: NDArray[np.int64], query: NDArray[np.float32], number: int, selector: Selector
    ) -> ScanHits:
        import faiss

        center_scores = np.zeros(len(lists), np.float32)  # RaBitQ computes its own
        scores = np.empty(number, np.float32)
        numbers = np.empty(number, np.int64)
        parameters = faiss.IVFRaBitQSearchParameters()
        parameters.qb = _QUERY_BITS
        parameters.nprobe = len(lists)
        parameters.sel = selector.pointer
        self._index.search_preassigned_c(
            1,
            faiss.swig_ptr(query),
            number,
            faiss.swig_ptr(lists),
            faiss.swig_ptr(center_scores),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(numbers),
            False,
            parameters,
        )
        return ScanHits(scores, numbers)
