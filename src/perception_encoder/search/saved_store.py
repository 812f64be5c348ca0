"""Stores the saved searches of an index beside it, so that they are copied and deleted with it.

On this machine they are one JSON file, which is replaced under a lock. On object storage, where no
file can be locked, they are a Lance dataset with one row a search: Lance's commits are conditional
writes, so that no search is lost when two are saved at once.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import IndexBusyError, IndexStorageError, QueryError
from perception_encoder.index.storage import is_remote, sidecar_path, storage_errors
from perception_encoder.search.saved import SavedSearch, read_saved_search

if TYPE_CHECKING:
    import lance

    from perception_encoder.search.queries import Query
    from perception_encoder.search.ranking import SearchResult
    from perception_encoder.types import ModelIdentity

MAX_SEARCHES: Final = 100
"""Saved searches of one index."""

_FORMAT: Final = 2
_MAX_BYTES: Final = 32 << 20
_LOCK_SECONDS: Final = 10
_READERS_NEED: Final = datetime.timedelta(days=1)  # a version that may still be read

_Change: TypeAlias = Callable[[Sequence[SavedSearch]], SavedSearch | None]
"""Returns the search to store, given those that are stored; None changes nothing."""


class SavedSearches:
    """The saved searches of an index.

    Args:
        path: of the index.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._store: _Store = _Dataset(path) if is_remote(path) else _File(path)

    def load(self) -> list[SavedSearch]:
        """Return all of them by name.

        Raises:
            IndexStorageError: they cannot be read, or are damaged.
        """
        return sorted(self._store.load(), key=lambda one: one.name.casefold())

    def get(self, name: str) -> SavedSearch:
        """Return the search of a name.

        Raises:
            QueryError: there is none.
            IndexStorageError: as `load`.
        """
        searches = self.load()
        for one in searches:
            if one.name == name:
                return one
        names = ", ".join(one.name for one in searches[:10]) or "none"
        raise QueryError(
            f"{self._path} has no saved search {name[:80]!a}; it has: {names}. Save one with: "
            "pe search … --save NAME"
        )

    def save(self, search: SavedSearch) -> None:
        """Store a search, in place of one of its name.

        Raises:
            QueryError: there are too many.
            IndexStorageError: they cannot be read or written.
        """

        def add(stored: Sequence[SavedSearch]) -> SavedSearch:
            if len({one.name for one in stored} | {search.name}) > MAX_SEARCHES:
                raise QueryError(
                    f"{self._path} has {MAX_SEARCHES} saved searches, which is the limit; remove "
                    "one with: pe searches remove NAME"
                )
            return search

        self._store.put(add)

    def remove(self, name: str) -> None:
        """Remove a search.

        Raises:
            QueryError: there is none of that name.
            IndexStorageError: they cannot be read or written.
        """
        self._store.remove(self.get(name).name)

    def note_run(
        self,
        ran: SavedSearch,
        query: Query | None,
        identity: ModelIdentity,
        shown: Sequence[SearchResult],
    ) -> None:
        """Store that a search ran, its query's embedding, and the hits that were shown.

        A search that was removed meanwhile stays removed.

        Raises:
            IndexStorageError: they cannot be read or written.
        """

        def note(stored: Sequence[SavedSearch]) -> SavedSearch | None:
            found = next((one for one in stored if one.name == ran.name), None)
            if found is None or found.saved_at != ran.saved_at:
                return None
            return found.noted(shown).with_embedding(query, identity)

        self._store.put(note)

    def renew(self, search: SavedSearch, query: Query, identity: ModelIdentity) -> None:
        """Store the embedding of a search's query by another model, unless it was changed since.

        Raises:
            IndexBusyError, IndexStorageError: the searches cannot be written.
        """

        def change(stored: Sequence[SavedSearch]) -> SavedSearch | None:
            found = next((one for one in stored if one.name == search.name), None)
            if found is None or found.saved_at != search.saved_at:
                return None
            return found.with_embedding(query, identity)

        self._store.put(change)


class _Store(Protocol):
    """Where the searches are."""

    def load(self) -> list[SavedSearch]: ...

    def put(self, change: _Change) -> None: ...

    def remove(self, name: str) -> None: ...


class _File:
    """A JSON file in the index's folder."""

    def __init__(self, path: str) -> None:
        self._file = sidecar_path(path, "searches.json")

    def load(self) -> list[SavedSearch]:
        try:
            with open(self._file, "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as err:
            raise IndexStorageError(f"{self._file} cannot be read: {err.strerror or err}") from err
        with _damage_errors(self._file):
            if len(data) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES:,} bytes")
            stored = json.loads(data)
            if stored["format"] > _FORMAT:
                raise IndexStorageError(
                    f"{self._file} was written by a newer version of perception-encoder; install it"
                )
            return [read_saved_search(one) for one in stored["searches"]]

    def put(self, change: _Change) -> None:
        with self._locked():
            stored = self.load()
            search = change(stored)
            if search is not None:
                self._write([*(one for one in stored if one.name != search.name), search])

    def remove(self, name: str) -> None:
        with self._locked():
            self._write([one for one in self.load() if one.name != name])

    def _write(self, searches: Sequence[SavedSearch]) -> None:
        stored = {"format": _FORMAT, "searches": [asdict(one) for one in searches]}
        with atomic_write(self._file, IndexStorageError) as temporary:
            temporary.write_text(json.dumps(stored, indent=1, ensure_ascii=False), encoding="utf-8")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            os.makedirs(os.path.dirname(self._file), exist_ok=True)
            with FileLock(f"{self._file}.lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout as err:
            raise IndexBusyError(
                f"{self._file} has been locked for {_LOCK_SECONDS} s; try again"
            ) from err
        except PermissionError as err:
            raise IndexStorageError(f"{self._file} cannot be written: {err.strerror}") from err


class _Dataset:
    """A Lance dataset in the index's folder: a name and JSON in each row."""

    def __init__(self, path: str) -> None:
        self._uri = sidecar_path(path, "searches.lance")

    def load(self) -> list[SavedSearch]:
        dataset = self._open()
        if dataset is None:
            return []
        with storage_errors(self._uri):
            stored = dataset.to_table(columns=["search"])["search"].to_pylist()
        with _damage_errors(self._uri):
            return [read_saved_search(json.loads(one)) for one in stored]

    def put(self, change: _Change) -> None:
        search = change(self.load())
        if search is None:
            return
        import lance
        import pyarrow as pa

        schema = pa.schema([pa.field("name", pa.string(), nullable=False), ("search", pa.string())])
        row = {"name": search.name, "search": json.dumps(asdict(search), ensure_ascii=False)}
        table = pa.Table.from_pylist([row], schema)
        with storage_errors(self._uri):
            dataset = self._open()
            if dataset is None:
                try:
                    lance.write_dataset(table, self._uri, mode="create")
                    return
                except OSError as err:
                    if "already exists" not in str(err):
                        raise
                    dataset = lance.dataset(self._uri)  # another process was first
            merge = dataset.merge_insert("name").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(table)
            dataset.cleanup_old_versions(older_than=_READERS_NEED)

    def remove(self, name: str) -> None:
        dataset = self._open()
        if dataset is not None:
            with storage_errors(self._uri):
                dataset.delete("name = '" + name.replace("'", "''") + "'")

    def _open(self) -> lance.LanceDataset | None:
        import lance

        with storage_errors(self._uri):
            try:
                return lance.dataset(self._uri)
            except ValueError as err:
                if "was not found" not in str(err):
                    raise
                return None


@contextmanager
def _damage_errors(name: str) -> Iterator[None]:
    """Raise what damaged searches cause as an error that names their file."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, QueryError) as err:
        raise IndexStorageError(
            f"{name} is damaged ({err}); bring it back from a copy, or delete it: only the saved "
            "searches are lost"
        ) from err
