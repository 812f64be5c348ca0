"""Calls of faiss that its documented Python API does not offer: every raw pointer is in here.

The scan reads float16 rows in place, half the memory traffic of a float32 product;
`IndexScalarQuantizer` would copy the rows and search one query in one thread. The Python API's
`search_preassigned` accepts no parameters, so it can neither filter rows nor run in several
threads. `add_core` takes lists that were found among few dimensions; `add` compares all of them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.searcher.fragments import Mask, RowPositions
from perception_encoder.types import Embeddings

Selector: TypeAlias = Any
"""A faiss.IDSelector, or None for all rows."""

_QUERY_BITS: Final = 4  # of a query's numbers; 8 bits find no more and take longer


class ScanHits(NamedTuple):
    """The nearest rows to one query.

    Attributes:
        scores: (K,) float32.
        numbers: (K,) int64; -1 where there are fewer than K rows.
    """

    scores: NDArray[np.float32]
    numbers: RowPositions


def make_selector(mask: Mask | None) -> Selector:
    """Return the faiss selector of the rows in a mask; None selects all."""
    if mask is None:
        return None
    import faiss

    create: Any = faiss.IDSelectorBitmap  # its type stub lacks the constructor from an array
    return create(np.packbits(mask, bitorder="little"))


class RowScanner:
    """Keeps the k best rows of each query while blocks of float16 rows go by; for one thread.

    Args:
        queries: (Q, E) float32.
        k: how many rows to keep.
        selector: the rows that take part.
    """

    def __init__(self, queries: Embeddings, k: int, selector: Selector) -> None:
        import faiss

        self._queries = np.ascontiguousarray(queries)  # the scanners point into it
        self._k = k
        self.hits = [
            ScanHits(np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)) for _ in queries
        ]
        embed_dim = queries.shape[1]
        kinds: Any = faiss.ScalarQuantizer  # its type stub lacks the method below
        self._quantizer = kinds(embed_dim, kinds.QT_fp16)
        self._scanners: list[Any] = []
        for query in self._queries:
            scanner: Any = self._quantizer.select_InvertedListScanner(
                faiss.METRIC_INNER_PRODUCT, None, False, selector, False
            )
            scanner.set_query(faiss.swig_ptr(query))
            scanner.set_list(0, 0.0)
            self._scanners.append(scanner)

    def scan(self, rows: NDArray[np.float16], start: int) -> None:
        """Scan (R, E) rows whose numbers begin at `start`."""
        import faiss

        numbers = np.arange(start, start + len(rows))
        codes = rows.view(np.uint8)
        for scanner, (scores, best) in zip(self._scanners, self.hits, strict=True):
            scanner.scan_codes(
                len(rows),
                faiss.swig_ptr(codes),
                faiss.swig_ptr(numbers),
                faiss.swig_ptr(scores),
                faiss.swig_ptr(best),
                self._k,
            )


def read_mapped_index(octets: NDArray[np.uint8]) -> Any:
    """Return the faiss index in a mapped file, without a copy of its lists.

    Raises:
        ValueError: it cannot be read.
    """
    import faiss

    readers: Any = faiss  # missing in its type stubs
    try:
        return faiss.read_index(readers.ZeroCopyIOReader(faiss.swig_ptr(octets), len(octets)))
    except RuntimeError as err:
        raise ValueError(f"the lists cannot be read: {err}") from err


def centers_of(index: Any) -> NDArray[np.float32]:
    """Return the centers of the lists, (num_lists, E), where the index has them.

    Raises:
        ValueError: it has none.
    """
    import faiss

    flat: Any = faiss.downcast_index(index.quantizer)
    if not isinstance(flat, faiss.IndexFlat) or flat.ntotal != index.nlist:
        raise ValueError("the lists have no centers")
    centers: NDArray[np.float32] = faiss.rev_swig_ptr(flat.get_xb(), index.nlist * index.d)
    return centers.reshape(index.nlist, index.d)


def find_list(index: Any, number: int, octets: NDArray[np.uint8]) -> tuple[int, int]:
    """Return where the codes of a list begin in the mapped file, and where its ids end."""
    lists = index.invlists
    size = lists.list_size(number)
    if not size:
        return 0, 0
    base = octets.ctypes.data
    return int(lists.get_codes(number)) - base, int(lists.get_ids(number)) + 8 * size - base


def search_lists(
    index: Any, query: NDArray[np.float32], lists: NDArray[np.int64], k: int, selector: Selector
) -> ScanHits:
    """Return the k rows of the given lists that are nearest to a query, (E,); in this thread."""
    import faiss

    center_scores = np.zeros(len(lists), np.float32)  # RaBitQ computes its own
    hits = ScanHits(np.empty(k, np.float32), np.empty(k, np.int64))
    parameters = faiss.IVFRaBitQSearchParameters()
    parameters.qb = _QUERY_BITS
    parameters.centered = True  # one pass over a code less, and no rougher
    parameters.nprobe = len(lists)
    parameters.sel = selector
    index.search_preassigned_c(
        1,
        faiss.swig_ptr(query),
        k,
        faiss.swig_ptr(lists),
        faiss.swig_ptr(center_scores),
        faiss.swig_ptr(hits.scores),
        faiss.swig_ptr(hits.numbers),
        False,
        parameters,
    )
    return hits


def add_to_lists(
    index: Any, vectors: Embeddings, numbers: RowPositions, lists: NDArray[np.int64]
) -> None:
    """Add (R, E) vectors with their numbers to the given lists, (R,)."""
    import faiss

    vectors, numbers = np.ascontiguousarray(vectors), np.ascontiguousarray(numbers)
    index.add_core(
        len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(numbers), faiss.swig_ptr(lists)
    )
