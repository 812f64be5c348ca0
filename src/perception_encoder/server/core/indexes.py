"""The indexes of a server: opened once, and refreshed for what other processes have committed."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import (
    ImageIndexError,
    IndexMismatchError,
    IndexNotFoundError,
    QueryError,
)
from perception_encoder.index import Index, Row
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.nearest import ROW_ID
from perception_encoder.index.schema import VECTOR, rows_of
from perception_encoder.search.calibration import Calibration
from perception_encoder.search.fusion import DEFAULT_TEXT_WEIGHT, search
from perception_encoder.search.photo_filters import TAKEN_AT, PhotoFilter, check_column
from perception_encoder.search.queries import Query
from perception_encoder.search.ranking import SearchOptions, SearchResult
from perception_encoder.server.core.filters import Filter, Kind, build_condition, list_column_kinds
from perception_encoder.types import Embeddings, ModelIdentity

Sort: TypeAlias = Literal["index", "name", "date", "size", "taken_at"]
"""Orders of a listing: as stored, by name, by the file's time, by the file's bytes, or by the time
at which a photo was taken."""

_SORT_COLUMN: Final[dict[Sort, str]] = {
    "name": "name",
    "date": "mtime",
    "size": "bytes",
    "taken_at": TAKEN_AT,
}
_NO_TIME: Final = np.iinfo(np.int64).max  # after all others, in either order
_MAX_LISTINGS: Final = 4  # kept for the next pages of an index: 8 bytes a row
_FRESH_SECONDS: Final = 1.0  # between two refreshes
_REMEMBERED_ROWS: Final = 20_000


@dataclass(frozen=True)
class Listing:
    """Which rows are listed, and in which order.

    Attributes:
        where: a condition on the columns; None for all rows.
        sort: what to order by; rows without a time or size come last.
        descending: reverse the order.
    """

    where: str | None = None
    sort: Sort = "index"
    descending: bool = False


_ListingKey: TypeAlias = tuple[tuple[int, str], Listing]
"""The state of the index, and what is listed."""


class ServedIndex:
    """One index with one model, shared by all requests. Methods may be called from any thread.

    Once `pe index --reembed` has changed the model, `successor` is the index with the new one. A
    request that has begun ends with the old embeddings, which its query belongs to.
    """

    def __init__(self, name: str, path: str) -> None:
        """Open the index.

        Raises:
            IndexNotFoundError: there is none at that path.
            IndexStorageError: it cannot be read.
        """
        self.name: Final = name
        self.path: Final = path
        self.index: Final = Index.open(path, hides_locations=True)
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._failure: ImageIndexError | None = None
        self.successor: ServedIndex | None = None
        self._state = self.index.state
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._orders: OrderedDict[tuple[tuple[int, str], Listing], NDArray[np.int64]] = (
            OrderedDict()
        )
        self._sorting = threading.Lock()

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors it holds."""
        return self.index.identity

    def fresh(self) -> Index:
        """Return the index as it is, or was at most a second ago.

        Raises:
            IndexMismatchError: another model's index has taken its place.
            IndexNotFoundError: there is none any more.
            IndexStorageError: it cannot be read.
        """
        with self._lock:
            is_old = self.successor is not None
            is_due = not is_old and time.monotonic() - self._looked > _FRESH_SECONDS
            failure = self._failure
            if is_due:
                self._looked = time.monotonic()
        if is_due:
            self._look()
        elif failure is not None:  # the same error until the next refresh
            raise copy.copy(failure)
        return self.index

    def _look(self) -> None:
        try:
            self.index.refresh()
            state = self.index.state
        except ImageIndexError as err:
            if isinstance(err, IndexMismatchError) and self._find_successor():
                return
            with self._lock:
                self._failure = copy.copy(err)  # without the frames that it came through
                self._rows.clear()
            raise
        with self._lock:
            self._failure = None
            if state != self._state:
                self._rows.clear()
                self._state = state

    def _find_successor(self) -> bool:
        """Open the index again if it is the same one, embedded by another model."""
        try:
            successor = ServedIndex(self.name, self.path)
        except ImageIndexError:
            return False
        if self.identity not in successor.index.earlier_models:
            return False
        with self._lock:
            self.successor, self._failure = successor, None
        return True

    def kinds(self) -> dict[str, Kind]:
        """Return the columns that filters may name, with what they hold."""
        return list_column_kinds(self.fresh().schema)

    def where(
        self, filters: Sequence[Filter], read_photos: Callable[[], PhotoFilter] = PhotoFilter
    ) -> str | None:
        """Return the condition of a request's filters.

        Args:
            filters: on columns.
            read_photos: parses photo filters; names of towns may have to be loaded.

        Raises:
            QueryError: no such column, or a value that does not fit.
            BackendUnavailableError: a town is named, and the extra `places` is not installed.
        """
        photos = read_photos()
        where = build_condition(filters, self.kinds()) if filters else None
        return photos.where(where, self.fresh().schema, self.path) if photos else where

    def search(
        self,
        query: Query | None,
        options: SearchOptions,
        calibration: Calibration | None = None,
        *,
        text: TextQuery | None = None,
        text_weight: float = DEFAULT_TEXT_WEIGHT,
        leave_out_own: bool = True,
    ) -> list[SearchResult]:
        """Return the hits of a query, of a text, or of both; see `search`."""
        found = search(
            self.fresh(),
            query,
            options,
            text=text,
            text_weight=text_weight,
            calibration=calibration,
            leave_out_own=leave_out_own,
        )
        self._remember(hit.row for one in found for hit in (one.hit, *one.also))
        return found

    def page(self, listing: Listing, offset: int, limit: int) -> tuple[list[Row], int]:
        """Return some rows of a listing, and how many it has.

        Raises:
            QueryError: the condition is wrong, or the index has no `taken_at` to sort by.
        """
        index = self.fresh()
        if listing.sort == "taken_at":
            check_column(index.schema, TAKEN_AT, self.path)
        if listing == Listing():
            rows = _first_rows(index, offset, limit)
            self._remember(rows)
            return rows, index.count()
        order = self._order(index, listing)
        rows = index.by_row_ids(order[offset : offset + limit].tolist())
        self._remember(rows)
        return rows, len(order)

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """Return the rows of ids in their order, without those that the index lacks."""
        found = self.index.by_ids(ids)
        rows = [found[key][0] for key in ids if key in found]
        self._remember(rows)
        return rows

    def _order(self, index: Index, listing: Listing) -> NDArray[np.int64]:
        """Return Lance's ids of a listing's rows, in its order; read once for each state."""
        with self._sorting:
            key = (index.state, listing)
            if key not in self._orders:
                self._orders[key] = _sort_rows(index, listing)
                while len(self._orders) > _MAX_LISTINGS:
                    self._orders.popitem(last=False)
            self._orders.move_to_end(key)
            return self._orders[key]

    def row(self, key: str) -> Row:
        """Return the row of an id.

        Raises:
            QueryError: there is none.
        """
        self.fresh()
        with self._lock:
            if key in self._rows:
                return self._rows[key]
        row, _ = self.with_vector(key)
        return row

    def with_vector(self, key: str) -> tuple[Row, Embeddings]:
        """Return the row of an id and its (E,) vector.

        Raises:
            QueryError: there is none.
        """
        found = self.fresh().by_ids([key]).get(key)
        if found is None:
            raise QueryError(f"the index {self.name} has no item {key[:64]!r}")
        self._remember([found[0]])
        return found

    def _remember(self, rows: Iterable[Row]) -> None:
        with self._lock:
            for row in rows:
                self._rows[row.id] = row
            while len(self._rows) > _REMEMBERED_ROWS:
                self._rows.popitem(last=False)


def _first_rows(index: Index, offset: int, limit: int) -> list[Row]:
    rows: list[Row] = []
    columns = [name for name in index.schema.names if name not in ("id", VECTOR)]
    for batch in index.scan(columns):
        if offset < batch.num_rows:
            rows += rows_of(batch.slice(offset, limit - len(rows)))
        offset = max(0, offset - batch.num_rows)
        if len(rows) >= limit:
            break
    return rows


def _sort_rows(index: Index, listing: Listing) -> NDArray[np.int64]:
    """Return Lance's ids of a listing's rows in its order."""
    if listing.sort == TAKEN_AT:
        return _sort_by_time(index, listing)
    import pyarrow as pa
    import pyarrow.compute as pc

    key = _SORT_COLUMN.get(listing.sort)
    columns = [ROW_ID]
    if key is not None:
        columns += ["uri", "member", *([] if key == "name" else [key])]
    batches = list(index.scan(columns, where=listing.where))
    if not batches:
        return np.empty(0, np.int64)
    rows = pa.Table.from_batches(batches)
    numbers: NDArray[np.int64] = rows[ROW_ID].to_numpy().astype(np.int64)
    if key is None:
        return numbers[::-1] if listing.descending else numbers
    name = pc.binary_join_element_wise(
        pc.utf8_lower(rows["uri"]), pc.utf8_lower(rows["member"]), "/", null_handling="skip"
    )
    direction = "descending" if listing.descending else "ascending"
    order = pc.sort_indices(
        rows.append_column("name", name), [(key, direction), ("name", "ascending")]
    )
    ordered: NDArray[np.int64] = numbers[order.to_numpy()]
    return ordered


def _sort_by_time(index: Index, listing: Listing) -> NDArray[np.int64]:
    """Sort rows by `taken_at`, those of one time as they are stored; rows without one come last."""
    import pyarrow as pa

    numbers, times = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in index.scan([ROW_ID, TAKEN_AT], where=listing.where):
        column = batch[TAKEN_AT].cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        found = column.fill_null(_NO_TIME).to_numpy()
        is_dated = found != _NO_TIME
        numbers.append(batch[ROW_ID].to_numpy().astype(np.int64))
        times.append(np.where(is_dated, -found, _NO_TIME) if listing.descending else found)
    order = np.argsort(np.concatenate(times), kind="stable")
    ordered: NDArray[np.int64] = np.concatenate(numbers)[order]
    return ordered


class ServedIndexes:
    """The indexes by name; the first is the default.

    Attributes:
        on_model: called with the id of a model that an index has now.

    Args:
        paths: folders or URIs. The name of an index is that of its folder without the suffix, with
            a number if the name is taken.

    Raises:
        IndexNotFoundError, IndexStorageError: an index cannot be opened.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._served: dict[str, ServedIndex] = {}
        self._lock = threading.Lock()
        self.on_model: Callable[[str], object] = lambda _: None
        for path in paths:
            stem = PurePosixPath(path.replace("\\", "/")).stem or "index"
            name, number = stem, 2
            while name in self._served:
                name, number = f"{stem}-{number}", number + 1
            self._served[name] = ServedIndex(name, path)

    def __iter__(self) -> Iterator[ServedIndex]:
        return iter([self._current(name) for name in self._served])

    def __len__(self) -> int:
        return len(self._served)

    def get(self, name: str | None = None) -> ServedIndex:
        """Return an index; the first for None.

        Raises:
            IndexNotFoundError: there is none of that name, or none at all.
        """
        if not self._served:
            raise IndexNotFoundError("this server has no index; start it with --index FOLDER")
        if name is None:
            return self._current(next(iter(self._served)))
        if name not in self._served:
            raise IndexNotFoundError(
                f"this server has no index {name[:100]!r}; it has: {', '.join(self._served)}"
            )
        return self._current(name)

    def _current(self, name: str) -> ServedIndex:
        """Return an index with the model that it has now, as far as a request has noticed."""
        with self._lock:
            while (successor := self._served[name].successor) is not None:
                self.on_model(successor.identity.model_id)
                self._served[name] = successor
            return self._served[name]
