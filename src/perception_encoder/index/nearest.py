"""Search in one version of the index, with a searcher or Lance's vector index if there is one.

Scores are always computed here from the index's own vectors. So exact search returns the same with
and without a searcher, and a wrong searcher is noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

import numpy as np

from perception_encoder.index.checksums import SearcherDamageError
from perception_encoder.index.exact import ExactSearch, product
from perception_encoder.index.recent import BoundRecentVectors, RecentVectors
from perception_encoder.index.rows import Hit, Row
from perception_encoder.index.schema import VECTOR, rows_of, vectors_of
from perception_encoder.index.searcher.fragments import Coverage, RowIds, RowPositions
from perception_encoder.index.searcher.kernels import ScanHits
from perception_encoder.index.searcher.searcher import BoundSearcher, Searcher, Searchers
from perception_encoder.index.vector_index import (
    VectorIndex,
    find_candidates,
    read_vector_index,
)
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_FEW_QUERIES: Final = 8  # more are faster as one product with what is read
ROW_ID: Final = "_rowid"  # Lance's id of a row, valid within one version
_FEW_BYTES: Final = 32 << 20  # of vectors that meet a condition: reading them all takes no longer


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
        self._bound_recent: tuple[list[int], BoundRecentVectors] | None = None
        self._vector_index: VectorIndex | Literal["unread"] | None = "unread"

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
        is_again, index = self._recent.count_query(), None
        if searcher is None:
            index = self._read_vector_index()
            proposal = None if index is None or exact else self._propose(index, queries, k, where)
            if proposal is not None:
                best.add_batches(proposal.batches)
                others = proposal.others
            is_again = is_again and (index is None or proposal is not None)
        if others and len(queries) <= _FEW_QUERIES and (searcher or is_again):
            recent = self._recent_vectors(others)
            proposed = recent.propose(queries, k, where=where, threshold=threshold)
            best.add_proposed(proposed, recent.coverage, recent.slack)
            others = recent.others
        if others:
            best.add_all(where, others)
        return best.hits()

    def _recent_vectors(self, others: list[lance.LanceFragment]) -> BoundRecentVectors:
        """Return the vectors in memory, of the rows that nothing else covers."""
        ids = [part.fragment_id for part in others]
        with self._lock:
            if self._bound_recent is None or self._bound_recent[0] != ids:
                bound = self._recent.bind(self._dataset, others, self._row_ids)
                self._bound_recent = ids, bound
            return self._bound_recent[1]

    def _propose(
        self, index: VectorIndex, queries: Embeddings, k: int, where: str | None
    ) -> _Proposal | None:
        """Search with the vector index; None if all rows that meet the condition are compared."""
        parts = self._dataset.get_fragments()
        covered = [part for part in parts if part.fragment_id in index.fragment_ids]
        others = [part for part in parts if part.fragment_id not in index.fragment_ids]
        num_rows = num_meeting = sum(part.physical_rows - part.num_deletions for part in covered)
        if index.plan(k) is None or num_rows == 0:
            return None
        if where is not None:
            batches = self._scan([ROW_ID], where, fragments=covered)
            num_meeting = sum(len(batch) for batch in batches)
            if num_meeting * _vector_bytes(self._dataset) <= _FEW_BYTES:
                return None
        plan = index.plan(k, num_meeting / num_rows)
        assert plan is not None  # as above
        found, seen = 0, np.empty(0, np.int64)
        proposed: list[pa.RecordBatch] = []
        for table in find_candidates(
            self._dataset,
            queries,
            plan,
            index.num_partitions,
            columns=["uri", "member", VECTOR],
            where=where,
        ):
            found += len(table)
            row_ids, first = np.unique(table[ROW_ID].to_numpy().astype(np.int64), return_index=True)
            new = first[~np.isin(row_ids, seen)]  # several queries may propose a row
            seen = np.union1d(seen, row_ids)
            proposed += table.take(new).combine_chunks().to_batches()
        if found < min(k, num_meeting) * len(queries):
            return None
        return _Proposal(proposed, others)

    def _read_vector_index(self) -> VectorIndex | None:
        with self._lock:
            if self._vector_index == "unread":
                self._vector_index = read_vector_index(self._dataset)
            return self._vector_index

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


class _Proposal(NamedTuple):
    """What the vector index proposes, and the fragments that it does not cover."""

    batches: list[pa.RecordBatch]
    others: list[lance.LanceFragment]


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
            self.add_batches([batch])

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
        batch = self._read_rows(coverage, numbers)
        row_ids = coverage.row_ids(numbers).tolist()
        vectors = vectors_of(batch)
        for query, found in zip(self._queries, proposed, strict=True):
            scores = product(vectors[np.searchsorted(numbers, found.numbers)], query)
            if np.any(np.abs(scores - found.scores) > slack):
                raise SearcherDamageError("its vectors are not the index's")
        self._rows |= zip(row_ids, rows_of(batch), strict=True)
        self._search.add(vectors, lambda row: _key_of_row(self._rows[row_ids[row]], row_ids[row]))

    def add_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Add rows whose uri, member, vector and id have been read."""
        for batch in batches:
            self._search.add(vectors_of(batch), partial(_key_in_batch, batch))

    def _read_rows(self, coverage: Coverage, numbers: RowPositions) -> pa.RecordBatch:
        """Return whole rows, in the given order.

        Reading by position takes half as long as by a condition on the id, but where rows are
        deleted, Lance counts all rows of a fragment before a position: 600 ms in a million rows.
        """
        columns = [*self._columns, VECTOR]
        if coverage.alive is None:
            positions = coverage.positions(numbers).tolist()
            return self._dataset.take(positions, columns=columns).combine_chunks().to_batches()[0]
        import pyarrow as pa

        wanted = coverage.row_ids(numbers)
        is_one = f"{ROW_ID} IN ({', '.join(map(str, wanted.tolist()))})"
        batches = list(self._scan([*columns, ROW_ID], is_one))
        found = np.concatenate([batch[ROW_ID].to_numpy() for batch in batches])
        order = np.argsort(found)
        places = order[np.searchsorted(found[order], wanted)]
        rows = pa.Table.from_batches(batches).drop_columns([ROW_ID]).take(places)
        return rows.combine_chunks().to_batches()[0]

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


def _vector_bytes(dataset: lance.LanceDataset) -> int:
    column = dataset.schema.field(VECTOR).type
    return int(column.list_size * column.value_type.bit_width // 8)


def _key_in_batch(batch: pa.RecordBatch, number: int) -> _RowKey:
    uri, member, row_id = (batch[name][number].as_py() for name in ("uri", "member", ROW_ID))
    return _RowKey(uri, member or "", row_id)


def _key_of_row(row: Row, row_id: int) -> _RowKey:
    return _RowKey(row.uri, row.member or "", row_id)
