"""Search in one version of the index, with a searcher if there is one.

Scores are always computed here from the index's own vectors. So exact search returns the same with
and without a searcher, and a wrong searcher is noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.checksums import SearcherDamageError
from perception_encoder.index.exact import ExactSearch, product
from perception_encoder.index.recent import BoundRecentVectors, RecentVectors
from perception_encoder.index.rows import Hit, Row
from perception_encoder.index.schema import VECTOR, rows_of, vectors_of
from perception_encoder.index.searcher.fragments import Coverage, RowIds
from perception_encoder.index.searcher.kernels import ScanHits
from perception_encoder.index.searcher.searcher import BoundSearcher, Searcher, Searchers
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_FEW_QUERIES: Final = 8  # more are faster as one product with what is read
ROW_ID: Final = "_rowid"  # Lance's id of a row, valid within one version


class Scan(Protocol):
    """Reads columns of one version of the index, see `Snapshot.scan`."""

    def __call__(
        self,
        columns: list[str],
        where: str | None,
        *,
        fragments: list[lance.LanceFragment] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield blocks of rows."""


class NearestSearch:
    """Search in one version.

    Args:
        dataset: the version.
        columns: of the rows of hits.
        scan: reads it; conditions are translated for Lance.
        searchers: of the index.
        recent: vectors of the index in memory.
    """

    def __init__(
        self,
        dataset: lance.LanceDataset,
        columns: Sequence[str],
        scan: Scan,
        searchers: Searchers,
        recent: RecentVectors,
    ) -> None:
        self._dataset = dataset
        self._columns = columns
        self._scan = scan
        self._searchers = searchers
        self._recent = recent
        self._lock = threading.Lock()
        self._bound: tuple[Searcher, BoundSearcher] | None = None
        self._bound_recent: tuple[BoundSearcher | None, BoundRecentVectors] | None = None

    def search(
        self,
        queries: Embeddings,
        k: int,
        *,
        where: str | None,
        threshold: float | None,
        exact: bool,
    ) -> list[list[NearestHit]]:
        """See `Index.search_rows`; queries are (Q, E) float32, checked, Q at least 1."""
        searcher = self._searcher()
        best = _Best(self._dataset, self._columns, self._scan, queries, k, threshold)
        if searcher is not None:
            try:
                proposed = searcher.propose(
                    queries, k, where=where, threshold=threshold, exact=exact
                )
                best.add_proposed(proposed, searcher.coverage, searcher.slack)
            except SearcherDamageError as err:
                self._searchers.dismiss(err)
                best = _Best(self._dataset, self._columns, self._scan, queries, k, threshold)
                searcher = None
        others = searcher.coverage.others if searcher else self._dataset.get_fragments()
        if not others and searcher is None:
            best.add_all(where, None)  # there are no rows, but the condition may be wrong
        is_again = self._recent.count_query()
        if others and len(queries) <= _FEW_QUERIES and (searcher or is_again):
            recent = self._recent_vectors(searcher, others)
            proposed = recent.propose(queries, k, where=where, threshold=threshold)
            best.add_proposed(proposed, recent.coverage, recent.slack)
            others = recent.others
        if others:
            best.add_all(where, others)
        return best.hits()

    def _recent_vectors(
        self, searcher: BoundSearcher | None, others: list[lance.LanceFragment]
    ) -> BoundRecentVectors:
        """Return the vectors in memory, of the rows that a searcher does not cover."""
        with self._lock:
            if self._bound_recent is None or self._bound_recent[0] is not searcher:
                bound = self._recent.bind(self._dataset, others, self._row_ids)
                self._bound_recent = searcher, bound
            return self._bound_recent[1]

    def _searcher(self) -> BoundSearcher | None:
        searcher = self._searchers.current()
        embed_dim = self._dataset.schema.field(VECTOR).type.list_size
        if searcher is None or searcher.header.embed_dim != embed_dim:  # of an earlier index
            return None
        with self._lock:
            if self._bound is None or self._bound[0] is not searcher:
                bound = BoundSearcher(searcher, self._dataset, self._row_ids)
                self._bound = searcher, bound
            return self._bound[1]

    def _row_ids(self, fragments: list[lance.LanceFragment], where: str | None) -> RowIds:
        batches = self._scan([ROW_ID], where, fragments=fragments)
        parts = [batch[ROW_ID].to_numpy().astype(np.int64) for batch in batches]
        return np.concatenate([np.empty(0, np.int64), *parts])


class NearestHit(NamedTuple):
    """A hit, and Lance's id of its row in one version."""

    row_id: int
    hit: Hit


class _RowKey(NamedTuple):
    """Identifies a row; its order breaks ties."""

    uri: str
    member: str
    row_id: int


class _Best:
    """The best rows so far, with the columns that have been read."""

    def __init__(
        self,
        dataset: lance.LanceDataset,
        columns: Sequence[str],
        scan: Scan,
        queries: Embeddings,
        k: int,
        threshold: float | None,
    ) -> None:
        self._dataset = dataset
        self._scan = scan
        self._columns = columns
        self._queries = queries
        self._search = ExactSearch[_RowKey](queries, k, threshold)
        self._rows: dict[int, Row] = {}

    def add_all(self, where: str | None, fragments: list[lance.LanceFragment] | None) -> None:
        """Add all rows of the fragments (None for all) that meet a condition."""
        for batch in self._scan(["uri", "member", VECTOR, ROW_ID], where, fragments=fragments):
            self._search.add(vectors_of(batch), partial(_key_in_batch, batch))

    def add_proposed(self, proposed: list[ScanHits], coverage: Coverage, slack: float) -> None:
        """Add proposed rows, after checking their scores.

        Args:
            proposed: for each query.
            coverage: of their numbers.
            slack: the largest error of a score.

        Raises:
            SearcherDamageError: the scores are wrong.
        """
        numbers = np.unique(np.concatenate([found.numbers for found in proposed]))
        if numbers.size == 0:
            return
        batch = self._read_rows(coverage.positions(numbers))
        row_ids = coverage.row_ids(numbers).tolist()
        vectors = vectors_of(batch)
        for query, found in zip(self._queries, proposed, strict=True):
            scores = product(vectors[np.searchsorted(numbers, found.numbers)], query)
            if np.any(np.abs(scores - found.scores) > slack):
                raise SearcherDamageError("its vectors are not the index's")
        self._rows |= zip(row_ids, rows_of(batch), strict=True)
        self._search.add(vectors, lambda row: _key_of_row(self._rows[row_ids[row]], row_ids[row]))

    def _read_rows(self, positions: NDArray[np.int64]) -> pa.RecordBatch:
        """Return whole rows, in the given order.

        Reading by position takes half as long as by a condition on the id.
        """
        index = self._dataset.take(positions.tolist(), columns=[*self._columns, VECTOR])
        return index.combine_chunks().to_batches()[0]

    def hits(self) -> list[list[NearestHit]]:
        """Return the best rows for each query, best first."""
        results = self._search.results()
        found = {one.key.row_id for result in results for one in result}
        missing = sorted(found - self._rows.keys())
        if missing:
            wanted = f"{ROW_ID} IN ({', '.join(map(str, missing))})"
            for batch in self._scan([*self._columns, ROW_ID], wanted):
                ids = batch[ROW_ID].to_pylist()
                self._rows |= zip(ids, rows_of(batch.drop_columns([ROW_ID])), strict=True)
        return [
            [
                NearestHit(one.key.row_id, Hit.of(self._rows[one.key.row_id], one.score))
                for one in best
            ]
            for best in results
        ]


def _key_in_batch(batch: pa.RecordBatch, number: int) -> _RowKey:
    uri, member, row_id = (batch[name][number].as_py() for name in ("uri", "member", ROW_ID))
    return _RowKey(uri, member or "", row_id)


def _key_of_row(row: Row, row_id: int) -> _RowKey:
    return _RowKey(row.uri, row.member or "", row_id)
