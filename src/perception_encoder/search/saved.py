"""Saved searches: named queries with their options, and what they found before.

Each keeps the embedding of its query: it runs again without a model, also when an image of the
query is gone. What was shown is kept by row id, which stays the same when an image is indexed
again.
"""

from __future__ import annotations

import base64
import datetime
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np

from perception_encoder.errors import QueryError
from perception_encoder.index import Index
from perception_encoder.index.full_text import TextQuery
from perception_encoder.search.fusion import DEFAULT_TEXT_WEIGHT, search
from perception_encoder.search.grammar import STDIN, QueryTerm
from perception_encoder.search.photo_filters import PhotoFilter
from perception_encoder.search.queries import Query, read_queries
from perception_encoder.search.ranking import SearchOptions, SearchResult, sort_newest_first
from perception_encoder.types import ModelIdentity

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.search.calibration import Calibration

MAX_SEEN: Final = 10_000
"""Rows that one search remembers, and the most hits that it looks at."""

_NAME: Final = re.compile(r"\w[\w .-]{0,63}")
_WINDOW: Final = 1000  # best hits that are looked at first
_ID_DIGITS: Final = 16  # of a row's id; 64 bits tell 10,000 rows apart


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
        seen: the first digits of the ids of rows that were shown, or found before the search was
            saved; the latest first.
        page: what the page of the server shows for it, as the query string of its address; "" for
            a search that was not saved there.
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
    page: str = ""

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
        if self.options.offset + self.options.k > MAX_SEEN:
            raise QueryError(f"a saved search looks at up to {MAX_SEEN:,} hits; lower -k")

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

    @property
    def has_an_end(self) -> bool:
        """Whether there are images that are no hits at all: below a threshold, without the text.

        Without an end every image is a hit, and the best `k` are meant.
        """
        return self.options.threshold is not None or not self.terms

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
            "page": self.page,
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
        end = options.offset + options.k
        depth = max(end, _WINDOW)
        found = self._search(index, query, options, calibration, depth)
        is_fused = query is not None and self.text is not None  # long lists of both cost too much
        if self.has_an_end and len(found) == depth and not is_fused:
            depth = MAX_SEEN
            found = self._search(index, query, options, calibration, depth)
        known = set(self.seen)
        hits = found[options.offset :] if self.has_an_end else found[options.offset : end]
        new = [one for one in hits if one.hit.id[:_ID_DIGITS] not in known]
        page, best_new = found[options.offset : end], new[: options.k]
        if options.sort != "score":
            page, best_new = sort_newest_first(page), sort_newest_first(best_new)
        is_cut = self.has_an_end and len(found) == depth
        return FoundAgain(page, best_new, len(new), found, is_cut=is_cut)

    def _search(
        self,
        index: Index,
        query: Query | None,
        options: SearchOptions,
        calibration: Calibration | None,
        k: int,
    ) -> list[SearchResult]:
        return search(
            index,
            query,
            replace(options, k=k, offset=0, sort="score"),
            text=None if self.text is None else TextQuery.parse(self.text),
            text_weight=self.text_weight,
            calibration=calibration,
        )

    def noted(self, shown: Iterable[SearchResult]) -> Self:
        """Return the search after a run that showed some hits; others of its hits stay new."""
        ids = (hit.id[:_ID_DIGITS] for one in shown for hit in (one.hit, *one.also))
        seen = tuple(dict.fromkeys([*ids, *self.seen]))[:MAX_SEEN]
        return replace(self, last_run_at=now_iso(), seen=seen)


@dataclass(frozen=True)
class FoundAgain:
    """What a saved search found.

    Attributes:
        hits: those that it shows, as any search.
        new: those of all hits that were not seen, at most `k`.
        num_new: number of those, also beyond `k`.
        all: every hit that was looked at, best first.
        is_cut: whether there may be hits beyond those.
    """

    hits: Sequence[SearchResult]
    new: Sequence[SearchResult]
    num_new: int
    all: Sequence[SearchResult]
    is_cut: bool = False


def now_iso() -> str:
    """Return this moment as ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_saved_search(stored: Mapping[str, Any]) -> SavedSearch:
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
        **dict(stored)
        | {
            "terms": terms,
            "options": options,
            "identity": None if identity is None else ModelIdentity(**identity),
            "seen": tuple(map(str, stored["seen"])),
            "page": str(stored.get("page", "")),
        }
    )
    if read.vector is not None:
        size = len(base64.b64decode(read.vector, validate=True))
        if read.identity is None or size != 4 * read.identity.embed_dim:
            raise ValueError("an embedding of another size")
    return read
