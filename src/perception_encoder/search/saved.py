"""Saved searches of an index: named queries with their options, and what they found before.

They are one JSON file in the index's folder, so they are copied and deleted with the index. Each
keeps the embedding of its query: it runs again without a model, also when an image of the query is
gone. What a search found is kept by row id, which stays the same when an image is indexed again.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import IndexBusyError, IndexStorageError, QueryError
from perception_encoder.index import Index
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.storage import is_remote, sidecar_path
from perception_encoder.search.fusion import DEFAULT_TEXT_WEIGHT, search
from perception_encoder.search.grammar import STDIN, QueryTerm
from perception_encoder.search.photo_filters import PhotoFilter
from perception_encoder.search.queries import Query, read_queries
from perception_encoder.search.ranking import SearchOptions, SearchResult, sort_newest_first
from perception_encoder.types import ModelIdentity

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.search.calibration import Calibration

MAX_SEARCHES: Final = 100
"""Saved searches of one index."""

_FORMAT: Final = 1
_FILE: Final = "searches.json"
_NAME: Final = re.compile(r"\w[\w .-]{0,63}")
_MAX_BYTES: Final = 32 << 20
_MAX_SEEN: Final = 10_000  # rows that one search remembers
_WINDOW: Final = 1000  # best hits that count as seen, also those that are not shown
_ID_DIGITS: Final = 16  # of a row's id; 64 bits tell 10,000 rows apart
_LOCK_SECONDS: Final = 10


@dataclass(frozen=True)
class SavedOptions:
    """The options of a saved search, as people wrote them: "2 weeks ago" stays relative.

    `k` to `sort` are as in `SearchOptions`, the others as in `PhotoFilter.parse`.
    """

    k: int = 10
    offset: int = 0
    threshold: float | Literal["strong", "weak"] | None = None
    exact: bool = False
    unique: float | None = None
    bursts: float | None = None
    pairs: bool = True
    sort: Literal["score", "taken_at"] = "score"
    where: str | None = None
    since: str | None = None
    until: str | None = None
    near: str | None = None
    camera: str | None = None

    def resolve(self, index: Index) -> SearchOptions:
        """Return the options of a search at this moment.

        Raises:
            QueryError: one cannot be understood, or the index lacks its column.
        """
        photos = PhotoFilter.parse(
            since=self.since, until=self.until, near=self.near, camera=self.camera
        )
        return SearchOptions(
            k=self.k,
            offset=self.offset,
            threshold=self.threshold,
            exact=self.exact,
            unique=self.unique,
            bursts=self.bursts,
            pairs=self.pairs,
            sort=self.sort,
            where=photos.where(self.where, index.schema, index.path),
        )


@dataclass(frozen=True)
class SavedSearch:
    """A search that is kept by its name.

    Attributes:
        name: letters, digits, spaces, `.`, `_` and `-`; up to 64.
        terms: what the images should look like; paths of images are absolute.
        text: what to find in names and metadata.
        text_weight: share of the text in a fused score.
        options: the others.
        saved_at: ISO 8601, UTC.
        last_run_at: likewise; None before the first run.
        vector: base64 of the query's embedding, (E,) float32.
        identity: the model of the embedding.
        seen: the first digits of the ids of rows that it found, the latest first.
    """

    name: str
    terms: tuple[QueryTerm, ...] = ()
    text: str | None = None
    text_weight: float = DEFAULT_TEXT_WEIGHT
    options: SavedOptions = field(default_factory=SavedOptions)
    saved_at: str = ""
    last_run_at: str | None = None
    vector: str | None = None
    identity: ModelIdentity | None = None
    seen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise QueryError(
                f"{self.name[:80]!a} cannot name a search: use up to 64 letters, digits, spaces, "
                "dots, hyphens and underscores"
            )
        if not self.terms and self.text is None:
            raise QueryError("a search needs a query, or a text, or both")
        if any(term.kind == "image" and term.value == STDIN for term in self.terms):
            raise QueryError("the image on stdin is gone the next time; save it, and give its path")
        if self.options.offset + self.options.k > _MAX_SEEN:
            raise QueryError(f"a saved search looks at up to {_MAX_SEEN:,} hits; lower -k")

    @property
    def description(self) -> str:
        """The query in a few words."""
        parts = []
        for number, term in enumerate(self.terms):
            sign = "- " if term.weight < 0 else "+ " if number else ""
            weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}:"
            at = "@" if term.kind == "item" else ""
            parts.append(f"{sign}{weight}{at}{term.value}")
        if self.text is not None:
            parts.append(f"text: {self.text}")
        return " ".join(parts)

    def describe(self) -> dict[str, Any]:
        """Return the search as JSON, without what it found."""
        default = SavedOptions()
        options = asdict(self.options)
        return {
            "name": self.name,
            "query": self.description,
            "terms": [asdict(term) for term in self.terms],
            "text": self.text,
            "text_weight": self.text_weight,
            "options": {
                key: value for key, value in options.items() if value != getattr(default, key)
            },
            "saved_at": self.saved_at,
            "last_run_at": self.last_run_at,
        }

    def embedded(self, identity: ModelIdentity) -> Query | None:
        """Return the query with its saved embedding; None if that is of another model."""
        if self.vector is None or self.identity != identity:
            return None
        vector = np.frombuffer(base64.b64decode(self.vector), "<f4").astype(np.float32)
        images = [term.value for term in self.terms if term.kind == "image"]
        image = next((path for path in images if os.path.isfile(path)), None)
        return Query(self.terms, vector, image=image)

    def read_query(self, index: Index, open_model: Callable[[], EmbeddingModel]) -> Query | None:
        """Return the query; None for a text alone. The model is opened if that is needed.

        Raises:
            QueryError, ImageError, IndexMismatchError: as `read_queries`.
        """
        if not self.terms:
            return None
        known = self.embedded(index.identity)
        return known or read_queries(index, [self.terms], open_model)[0]

    def with_embedding(self, query: Query | None, identity: ModelIdentity) -> Self:
        """Return the search with the embedding of its query."""
        if query is None:
            return self
        vector = base64.b64encode(query.vector.astype("<f4").tobytes()).decode()
        return replace(self, vector=vector, identity=identity)

    def find(
        self, index: Index, query: Query | None, calibration: Calibration | None = None
    ) -> FoundAgain:
        """Search the index.

        Args:
            index: the index.
            query: from `read_query`.
            calibration: of the index; None gives no labels.

        Raises:
            QueryError: as `search`.
        """
        options = self.options.resolve(index)
        wide = replace(options, k=max(options.k, _WINDOW), offset=0, sort="score")
        if wide.k < options.offset + options.k:
            wide = replace(wide, k=options.offset + options.k)
        found = search(
            index,
            query,
            wide,
            text=None if self.text is None else TextQuery.parse(self.text),
            text_weight=self.text_weight,
            calibration=calibration,
        )
        known = set(self.seen)
        page = found[options.offset : options.offset + options.k]
        if options.sort != "score":
            page = sort_newest_first(page)
        new = [one for one in page if one.hit.id[:_ID_DIGITS] not in known]
        ids = [hit.id[:_ID_DIGITS] for one in found for hit in (one.hit, *one.also)]
        return FoundAgain(page, new, tuple(dict.fromkeys([*ids, *self.seen]))[:_MAX_SEEN])


@dataclass(frozen=True)
class FoundAgain:
    """What a saved search found: its hits, those of them that are new, and all that is seen now."""

    hits: Sequence[SearchResult]
    new: Sequence[SearchResult]
    seen: tuple[str, ...]


class SavedSearches:
    """The saved searches of an index.

    Args:
        path: of the index.

    Raises:
        QueryError: the index is on object storage, where no file can be locked.
    """

    def __init__(self, path: str) -> None:
        if is_remote(path):
            raise QueryError(
                f"{path}: searches are saved in the index's folder, which has to be on this machine"
            )
        self._path = path
        self._file = sidecar_path(path, _FILE)

    def load(self) -> list[SavedSearch]:
        """Return all of them by name.

        Raises:
            IndexStorageError: the file cannot be read, or is damaged.
        """
        try:
            with open(self._file, "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as err:
            raise IndexStorageError(f"{self._file} cannot be read: {err.strerror or err}") from err
        try:
            if len(data) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES:,} bytes")
            stored = json.loads(data)
            if stored["format"] > _FORMAT:
                raise IndexStorageError(
                    f"{self._file} was written by a newer version of perception-encoder; install it"
                )
            searches = [_read(one) for one in stored["searches"]]
        except (ValueError, LookupError, TypeError, AttributeError, QueryError) as err:
            raise IndexStorageError(
                f"{self._file} is damaged ({err}); bring it back from a copy, or delete it: only "
                "the saved searches are lost"
            ) from err
        return sorted(searches, key=lambda one: one.name.casefold())

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

    def save(self, search: SavedSearch) -> bool:
        """Store a search, and return whether it replaces one of that name.

        Raises:
            QueryError: there are too many.
            IndexStorageError: the file cannot be read or written.
        """
        with self._locked():
            stored = self.load()
            others = [one for one in stored if one.name != search.name]
            if len(others) >= MAX_SEARCHES:
                raise QueryError(
                    f"{self._path} has {MAX_SEARCHES} saved searches, which is the limit; remove "
                    "one with: pe searches remove NAME"
                )
            self._write([*others, search])
            return len(others) < len(stored)

    def remove(self, name: str) -> None:
        """Remove a search.

        Raises:
            QueryError: there is none of that name.
            IndexStorageError: the file cannot be read or written.
        """
        with self._locked():
            removed = self.get(name)
            self._write([one for one in self.load() if one.name != removed.name])

    def note_run(self, ran: SavedSearch, query: Query | None, found: FoundAgain) -> None:
        """Store what a search found, for the next time; a search removed meanwhile stays removed.

        Raises:
            IndexStorageError: the file cannot be read or written.
        """
        identity = Index.open(self._path).identity
        with self._locked():
            noted = replace(
                ran.with_embedding(query, identity), last_run_at=now_iso(), seen=found.seen
            )
            self._write([noted if one.name == ran.name else one for one in self.load()])

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


def now_iso() -> str:
    """Return this moment as ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read(stored: dict[str, Any]) -> SavedSearch:
    """Return a search as it was stored.

    Raises:
        ValueError, LookupError, TypeError, QueryError: it is damaged.
    """
    terms = tuple(QueryTerm(**term) for term in stored["terms"])
    if any(term.kind not in ("text", "image", "item") for term in terms):
        raise ValueError("a term of an unknown kind")
    options = SavedOptions(**stored["options"])
    SearchOptions(options.k, options.offset, options.threshold, unique=options.unique)  # checks
    identity = stored["identity"]
    read = SavedSearch(
        **stored
        | {
            "terms": terms,
            "options": options,
            "identity": None if identity is None else ModelIdentity(**identity),
            "seen": tuple(map(str, stored["seen"])),
        }
    )
    if read.vector is not None:
        size = len(base64.b64decode(read.vector, validate=True))
        if read.identity is None or size != 4 * read.identity.embed_dim:
            raise ValueError("an embedding of another size")
    return read
