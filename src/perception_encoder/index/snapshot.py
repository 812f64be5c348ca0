"""One version of the table, read only: rows, vectors, what is known, and search.

What it answers does not change when somebody commits, so a search that reads twice reads the same
rows twice. `Index` documents what each method means.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.index.exact import ExactSearch, Scored
from perception_encoder.index.known import KnownRows
from perception_encoder.index.rows import Hit, Row
from perception_encoder.index.schema import VECTOR, rows_of, vectors_of
from perception_encoder.index.storage import plain, storage_errors
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_ROW_ID: Final = "_rowid"  # Lance's number of a row, valid within one version
_BLOCK_BYTES: Final = 16 << 20  # of float32 vectors in one block of a scan
_NARROW_ROWS: Final = 16384  # in a block without vectors
_READ_AHEAD: Final = 4  # blocks


class Snapshot:
    """A version of a dataset at `path` (which names it in errors)."""

    def __init__(self, dataset: lance.LanceDataset, path: str) -> None:
        self._dataset = dataset
        self._path = path
        self._embed_dim: int = dataset.schema.field(VECTOR).type.list_size

    @property
    def schema(self) -> pa.Schema:
        """See `Index.schema`."""
        return self._dataset.schema

    def count(self) -> int:
        """See `Index.count`."""
        with storage_errors(self._path):
            return int(self._dataset.count_rows())

    def rows(self, where: str | None) -> Iterator[Row]:
        """See `Index.rows`."""
        for batch in self.scan(self._row_columns(), where):
            yield from rows_of(batch)

    def vectors(self, where: str | None) -> Embeddings:
        """See `Index.vectors`."""
        empty = np.empty((0, self._embed_dim), np.float32)
        return np.concatenate([empty, *map(vectors_of, self.scan([VECTOR], where))])

    def known_rows(self) -> KnownRows:
        """See `Index.known_rows`."""
        return KnownRows(partial(self.scan, where=None))

    def by_ids(self, ids: set[str]) -> dict[str, tuple[Row, Embeddings]]:
        """See `Index.by_ids`."""
        if not ids:
            return {}
        wanted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(ids))
        return {
            row.id: (row, vector)
            for batch in self.scan([*self._row_columns(), VECTOR], f"id IN ({wanted})")
            for row, vector in zip(rows_of(batch), vectors_of(batch), strict=True)
        }

    def search(
        self, queries: Embeddings, *, k: int, where: str | None, threshold: float | None
    ) -> list[list[Hit]]:
        """See `Index.search`; queries are (Q, E) float32, checked."""
        if len(queries) == 0:
            return []
        best = ExactSearch[_Place](queries, k, threshold)
        for batch in self.scan(["uri", "member", VECTOR, _ROW_ID], where):
            best.look_at(vectors_of(batch), partial(_place, batch))
        return self._hits(best.results())

    def _hits(self, results: list[list[Scored[_Place]]]) -> list[list[Hit]]:
        row_ids = sorted({found.key.row_id for result in results for found in result})
        rows = {
            (row.uri, row.member or ""): row
            for batch in self._fetch(row_ids, self._row_columns())
            for row in rows_of(batch)
        }
        return [
            [_hit(rows[found.key.uri, found.key.member], found.score) for found in result]
            for result in results
        ]

    def _row_columns(self) -> list[str]:
        return [name for name in self._dataset.schema.names if name not in ("id", VECTOR)]

    def _fetch(self, row_ids: list[int], columns: list[str]) -> Iterator[pa.RecordBatch]:
        if not row_ids:
            return iter(())
        return self.scan(columns, f"{_ROW_ID} IN ({', '.join(map(str, row_ids))})")

    def scan(self, columns: list[str], where: str | None) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows that meet the condition, in the table's order, block by block.

        Raises:
            QueryError: the condition cannot be understood.
            IndexStorageError: reading failed.
        """
        vector_rows = max(1, _BLOCK_BYTES // (4 * self._embed_dim))
        try:
            scanner = self._dataset.scanner(
                columns=[name for name in columns if name != _ROW_ID],
                filter=where,
                with_row_id=_ROW_ID in columns,
                batch_size=vector_rows if VECTOR in columns else _NARROW_ROWS,
                batch_readahead=_READ_AHEAD,
            )
            if where is not None:
                scanner.explain_plan()  # reads the condition, not the rows
        except (OSError, ValueError) as err:
            if where is None:
                raise
            raise QueryError(f"the condition {where!r} is wrong: {plain(err)}") from err
        with storage_errors(self._path):
            yield from scanner.to_batches()


class _Place(NamedTuple):
    """A row as the search names it; the order of two places breaks ties."""

    uri: str
    member: str
    row_id: int


def _place(batch: pa.RecordBatch, number: int) -> _Place:
    uri, member, row_id = (batch[name][number].as_py() for name in ("uri", "member", _ROW_ID))
    return _Place(uri, member or "", row_id)


def _hit(row: Row, score: float) -> Hit:
    return Hit(
        id=row.id,
        score=score,
        uri=row.uri,
        member=row.member,
        metadata=row.metadata,
        offset=row.offset,
        width=row.width,
        height=row.height,
        bytes=row.bytes,
        mtime=row.mtime,
        sha256=row.sha256,
    )
