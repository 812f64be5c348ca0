"""One version of an index, read only. `Index` documents its methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.index.condition import read_condition
from perception_encoder.index.condition_tokens import shorten
from perception_encoder.index.full_text import (
    SCORE,
    TextMatch,
    TextQuery,
    needs_full_text,
    scan_full_text,
)
from perception_encoder.index.known_rows import KnownRows
from perception_encoder.index.nearest import ROW_ID, NearestHit, NearestSearch
from perception_encoder.index.optimize import needs_optimize
from perception_encoder.index.recent import RecentVectors
from perception_encoder.index.rows import Row
from perception_encoder.index.schema import VECTOR, rows_of, vectors_of, without_text
from perception_encoder.index.searcher.searcher import Searchers
from perception_encoder.index.storage import shorten_error, storage_errors
from perception_encoder.index.tiles import IS_IMAGE, TILE_OF
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_BLOCK_BYTES: Final = 16 << 20  # of float32 vectors in one block of a scan
_NARROW_ROWS: Final = 16384  # in a block without vectors
_READ_AHEAD: Final = 4  # blocks of one of Lance's files; of several at once memory grows, not speed

_MAX_REASON: Final = 300  # characters; Lance lists all that it would have understood
_LAYERS: Final = re.compile(
    "External error: |Query Execution error: |Error applying filter expression to batch: |"
    r"LanceError\(Arrow\): |Invalid user input: |Error during planning: "
)


class FragmentScan(NamedTuple):
    """A fragment of an index: rows that were written together.

    Attributes:
        id: of the fragment.
        file: of its vectors, which no later commit changes.
        num_rows: rows, without deleted ones.
        scan: yields columns of its rows in their order, block by block; `_rowid` numbers them.
    """

    id: int
    file: str
    num_rows: int
    scan: Callable[[list[str]], Iterator[pa.RecordBatch]]


class Snapshot:
    """A version of the dataset at `path`, with what searches the index.

    Some columns may be hidden: neither rows nor conditions have them.
    """

    def __init__(
        self,
        dataset: lance.LanceDataset,
        path: str,
        searchers: Searchers,
        recent: RecentVectors,
        hidden: Collection[str] = (),
    ) -> None:
        self._dataset = dataset
        self._path = path
        self._hidden = hidden
        self._nearest = NearestSearch(dataset, self._row_columns(), self._read, searchers, recent)
        self._embed_dim: int = dataset.schema.field(VECTOR).type.list_size

    @property
    def state(self) -> tuple[int, str]:
        """Identifies the rows of this version."""
        with storage_errors(self._path):
            return _state_of(self._dataset)

    def is_of(self, dataset: lance.LanceDataset) -> bool:
        """Whether a dataset is this version."""
        with storage_errors(self._path):
            return _state_of(dataset) == _state_of(self._dataset)

    @property
    def schema(self) -> pa.Schema:
        """See `Index.schema`."""
        schema = without_text(self._dataset.schema)
        for name in self._hidden:
            if (place := schema.get_field_index(name)) >= 0:
                schema = schema.remove(place)
        return schema

    @property
    def stored_schema(self) -> pa.Schema:
        """All columns, also the hidden one."""
        return self._dataset.schema

    def count(self) -> int:
        """See `Index.count`."""
        with storage_errors(self._path):
            where = IS_IMAGE if self._has_tiles else None
            return int(self._dataset.count_rows(filter=where))

    def rows(self, where: str | None) -> Iterator[Row]:
        """See `Index.rows`."""
        for batch in self.scan(self._row_columns(), where):
            yield from rows_of(batch)

    @property
    def _has_tiles(self) -> bool:
        return TILE_OF in self._dataset.schema.names

    def vectors(self, where: str | None) -> Embeddings:
        """See `Index.vectors`."""
        empty = np.empty((0, self._embed_dim), np.float32)
        return np.concatenate([empty, *map(vectors_of, self.scan([VECTOR], where))])

    def known_rows(self) -> KnownRows:
        """See `Index.known_rows`."""
        videos = None
        if {"start", "end", "frame_time"} <= set(self.schema.names):
            videos = partial(self._read, where="frame_time IS NOT NULL AND member IS NOT NULL")
        return KnownRows(partial(self._read, where=None), videos, has_tiles=self._has_tiles)

    def by_ids(self, ids: set[str]) -> dict[str, tuple[Row, Embeddings]]:
        """See `Index.by_ids`."""
        if not ids:
            return {}
        wanted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(ids))
        return {
            row.id: (row, vector)
            for batch in self._read([*self._row_columns(), VECTOR], f"id IN ({wanted})")
            for row, vector in zip(rows_of(batch), vectors_of(batch), strict=True)
        }

    def row_ids(self, ids: set[str]) -> dict[str, int]:
        """See `Index.row_ids`."""
        if not ids:
            return {}
        wanted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(ids))
        return {
            key: row_id
            for batch in self._read(["id", ROW_ID], f"id IN ({wanted})")
            for key, row_id in zip(batch["id"].to_pylist(), batch[ROW_ID].to_pylist(), strict=True)
        }

    def by_row_ids(self, row_ids: Sequence[int]) -> list[Row]:
        """See `Index.by_row_ids`."""
        if not row_ids:
            return []
        found = {
            key: row
            for batch in self._read([*self._row_columns(), ROW_ID], _among(row_ids))
            for key, row in zip(
                batch[ROW_ID].to_pylist(), rows_of(batch.drop_columns([ROW_ID])), strict=True
            )
        }
        return [found[key] for key in row_ids if key in found]

    def search(
        self,
        queries: Embeddings,
        *,
        k: int,
        where: str | None,
        threshold: float | None,
        exact: bool,
    ) -> list[list[NearestHit]]:
        """See `Index.search_rows`; queries are (Q, E) float32, checked."""
        if len(queries) == 0:
            return []
        with _showing(where), storage_errors(self._path):
            condition = self._read_condition(where)
            return self._nearest.search(
                queries, k, where=condition, threshold=threshold, exact=exact
            )

    def fragments(self) -> list[FragmentScan]:
        """See `Index.fragments`."""
        with storage_errors(self._path):
            return [
                FragmentScan(
                    part.fragment_id,
                    part.data_files()[0].path,
                    part.physical_rows - part.num_deletions,
                    partial(self._read, where=None, fragments=[part]),
                )
                for part in self._dataset.get_fragments()
            ]

    def rank_text(
        self, query: TextQuery, *, limit: int, where: str | None, row_ids: Sequence[int] | None
    ) -> list[TextMatch]:
        """See `Index.rank_text`."""
        with _showing(where), storage_errors(self._path):
            if not self._dataset.count_rows():
                return []
            condition = _among(row_ids, self._read_condition(where))
            with _condition_errors(condition):
                found = scan_full_text(self._dataset, query, limit=limit, where=condition)
        columns = (found[name].to_pylist() for name in (ROW_ID, SCORE))
        matches = [TextMatch(*one) for one in zip(*columns, strict=True)]
        return sorted(matches, key=lambda one: (-one.score, one.row_id))

    def rows_with_vectors(self, row_ids: Sequence[int]) -> dict[int, tuple[Row, Embeddings]]:
        """See `Index.rows_with_vectors`."""
        if not row_ids:
            return {}
        columns = [*self._row_columns(), VECTOR, ROW_ID]
        return {
            key: (row, vector)
            for batch in self._read(columns, _among(row_ids))
            for key, row, vector in zip(
                batch[ROW_ID].to_pylist(),
                rows_of(batch.drop_columns([ROW_ID])),
                vectors_of(batch),
                strict=True,
            )
        }

    def needs_full_text(self) -> bool:
        """See `Index.needs_full_text`."""
        with storage_errors(self._path):
            return needs_full_text(self._dataset)

    def needs_optimize(self) -> bool:
        """See `Index.needs_optimize`."""
        return needs_optimize(self._dataset, self._path)

    def _row_columns(self) -> list[str]:
        return [name for name in self.schema.names if name not in ("id", VECTOR)]

    def scan(
        self, columns: list[str], where: str | None, *, tiles: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """See `Index.scan`."""
        with _showing(where):
            condition = self._read_condition(where)
            if self._has_tiles and not tiles:
                condition = IS_IMAGE if condition is None else f"({condition}) AND {IS_IMAGE}"
            yield from self._read(columns, condition)

    def _read_condition(self, where: str | None) -> str | None:
        return None if where is None else read_condition(where, self.schema)

    def _read(
        self,
        columns: list[str],
        where: str | None,
        *,
        fragments: list[lance.LanceFragment] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows that meet a condition, in the index's order, block by block.

        Args:
            columns: their names; `_rowid` is Lance's id of the row.
            where: the condition, translated for Lance; None for all rows.
            fragments: the fragments to read; None for all.

        Raises:
            QueryError: the condition cannot be understood.
            IndexStorageError: reading failed.
        """
        vector_rows = max(1, _BLOCK_BYTES // (4 * self._embed_dim))
        try:
            scanner = self._dataset.scanner(
                columns=[name for name in columns if name != ROW_ID],
                filter=where,
                with_row_id=ROW_ID in columns,
                batch_size=vector_rows if VECTOR in columns else _NARROW_ROWS,
                batch_readahead=_READ_AHEAD,
                fragment_readahead=1,
                fragments=fragments,
            )
            if where is not None:
                scanner.explain_plan()  # reads the condition, not the rows
        except (OSError, ValueError) as err:
            if where is None:
                raise
            raise _ConditionError(_reason(err, where)) from err
        with storage_errors(self._path):
            try:
                yield from scanner.to_batches()
            except (OSError, ValueError, RuntimeError) as err:
                if where is None or "applying filter" not in str(err):
                    raise
                raise _ConditionError(_reason(err, where)) from err


def _among(row_ids: Sequence[int] | None, condition: str | None = None) -> str | None:
    """Return the condition that a row has one of Lance's ids, and meets a condition."""
    if row_ids is None:
        return condition
    is_one = f"{ROW_ID} IN ({', '.join(map(str, row_ids))})"
    return is_one if condition is None else f"{is_one} AND {condition}"


class _ConditionError(QueryError):
    """Lance does not understand a condition, or cannot evaluate it."""


@contextmanager
def _condition_errors(where: str | None) -> Iterator[None]:
    """Raise Lance's errors of a search with a condition as the condition's, if they name it."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as err:
        if where is None or "filter" not in str(err):
            raise
        raise _ConditionError(_reason(err, where)) from err


@contextmanager
def _showing(where: str | None) -> Iterator[None]:
    """Show errors of a condition with the user's text instead of the translation."""
    try:
        yield
    except _ConditionError as err:
        raise QueryError(f"the condition {shorten(str(where))} is wrong: {err}") from err


def _reason(err: Exception, where: str) -> str:
    """Return Lance's reason without the condition and the wrapping messages."""
    reason = shorten_error(err)
    for before in ("statement: SELECT 1 FROM t WHERE", "sql filter:", "filter expression"):
        reason = re.sub(rf"Error \w+ {before} {re.escape(where)}(:| \()\s*", "", reason)
    return _LAYERS.sub("", reason)[:_MAX_REASON].strip()


def _state_of(dataset: lance.LanceDataset) -> tuple[int, str]:
    """Return the version's number, and its first and last file.

    The number alone is not enough: a recreated or restored index counts from the start.
    """
    fragments = dataset.get_fragments()
    ends = [part.data_files()[-1].path for part in (*fragments[:1], *fragments[-1:])]
    return int(dataset.version), " ".join(ends)
