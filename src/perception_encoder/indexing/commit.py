"""Commits the rows and outcomes of a run on a thread, while the model continues.

There is a commit every few seconds: a killed run loses little, and the index has few fragments.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index import Index, KnownRows, MetadataValue, Outcome, OutcomeLog, Row
from perception_encoder.index.schema import can_be_metadata
from perception_encoder.indexing.photo_metadata import (
    add_file_columns,
    given_columns,
    read_given_time,
)
from perception_encoder.indexing.tiles import content_of
from perception_encoder.sources.columns import MAX_COLUMNS

_ROWS_OF_A_COMMIT: Final = 2048
_OUTCOMES_OF_A_COMMIT: Final = 32768
_SECONDS_OF_A_COMMIT: Final = 5.0
_CHARACTERS_OF_A_COMMIT: Final = 64 * 2**20  # of metadata
_MAX_NAMES: Final = 100_000  # of columns that were left out, to count each once


class CommittedItem(NamedTuple):
    """A row to commit.

    Attributes:
        outcome: None for all rows of a video but the first, and for the tiles of an image.
        file_columns: what the file itself says of the photo, by column.
        video: the URI of the video that this is a segment of. Its rows are added together, and
            replace all that the index has of it.
    """

    row: Row
    vector: NDArray[np.float32]
    is_new: bool
    outcome: Outcome | None
    file_columns: Mapping[str, MetadataValue] = MappingProxyType({})
    video: str | None = None


@dataclass(slots=True)
class _Load:
    """The content of one commit."""

    rows: list[CommittedItem] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)
    num_characters: int = 0

    @property
    def is_due(self) -> bool:
        return (
            len(self.rows) >= _ROWS_OF_A_COMMIT
            or len(self.outcomes) >= _OUTCOMES_OF_A_COMMIT
            or self.num_characters >= _CHARACTERS_OF_A_COMMIT
            or (bool(self.rows or self.outcomes) and self._age > _SECONDS_OF_A_COMMIT)
        )

    @property
    def _age(self) -> float:
        return time.monotonic() - self.since


class _Columns:
    """Limits an index to `MAX_COLUMNS` columns of metadata over all sources."""

    def __init__(self, index: Index) -> None:
        self._known = {name for name in index.schema.names if can_be_metadata(name)}
        self.left_out = set[str]()

    def narrow(self, row: Row) -> Row:
        """Return the row without metadata beyond the limit."""
        new = [name for name in row.metadata if name not in self._known]
        if not new:
            return row
        space = max(0, MAX_COLUMNS - len(self._known))
        self._known.update(new[:space])
        if len(self.left_out) < _MAX_NAMES:
            self.left_out.update(new[space:])
        if len(new) <= space:
            return row
        kept = {name: value for name, value in row.metadata.items() if name in self._known}
        return replace(row, metadata=kept)


class Committer:
    """Writes to an index and its log of outcomes, where `run` is the run's name."""

    def __init__(self, index: Index, log: OutcomeLog, known: KnownRows, run: str) -> None:
        self._index = index
        self._log = log
        self._known = known
        self._run = run
        self._load = _Load()
        self._thread = ThreadPoolExecutor(1, "commit")
        self._running: tuple[Future[None], _Load] | None = None
        self._finished: list[Outcome] = []
        self._columns = _Columns(index)
        self.left_out = Counter[str]()  # metadata values that did not fit their columns, by name

    @property
    def columns_left_out(self) -> int:
        """Number of metadata names without a column."""
        return len(self._columns.left_out)

    def add(self, rows: Sequence[CommittedItem]) -> None:
        """Add rows to commit."""
        self._load.rows += rows
        self._load.num_characters += sum(
            len(value)
            for row in rows
            for value in (*row.row.metadata.values(), *row.file_columns.values())
            if isinstance(value, str)
        )

    def add_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes of items without a new row."""
        self._load.outcomes += outcomes

    def waiting(self) -> dict[str, CommittedItem]:
        """Return the rows that are not committed yet, by content."""
        loads = [self._load] if self._running is None else [self._running[1], self._load]
        return {
            content_of(row.row): row for load in loads for row in load.rows if row.video is None
        }

    @property
    def is_due(self) -> bool:
        """Whether `finished` would start a commit."""
        return self._load.is_due and not self._must_wait()

    def finished(self) -> list[Outcome]:
        """Start a commit if one is due, and return the outcomes that were committed since.

        Raises:
            IndexStorageError: a commit failed; earlier commits are kept.
        """
        if self.is_due:
            self._collect()
            load, self._load = self._load, _Load()
            self._running = self._thread.submit(self._commit, load), load
        elif self._running is not None and self._running[0].done():
            self._collect()
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> list[Outcome]:
        """Commit the rest, and return outcomes as `finished` does."""
        try:
            self._collect()
            self._commit(self._load)
            finished = self._finished + _outcomes_of(self._load)
            self._load, self._finished = _Load(), []
            return finished
        finally:
            self._thread.shutdown()

    def _collect(self) -> None:
        if self._running is not None:
            future, load = self._running
            future.result()
            self._running = None
            self._finished += _outcomes_of(load)

    def _must_wait(self) -> bool:
        """Whether there is no index yet and only failures to write, which create none.

        Very many are written all the same, to limit memory.
        """
        return (
            not self._index.is_created
            and not self._load.rows
            and len(self._load.outcomes) < _OUTCOMES_OF_A_COMMIT
        )

    def _commit(self, load: _Load) -> None:
        for is_new in (True, False):
            rows = [row for row in load.rows if row.is_new == is_new]
            if rows:
                self._note_source_columns(rows)
                narrow = [self._columns.narrow(self._with_file_columns(row)) for row in rows]
                fitted, left_out = self._index.fit(narrow)
                vectors = np.stack([row.vector for row in rows])
                if is_new:
                    self._index.append(fitted, vectors)
                else:
                    videos = {row.video for row in rows if row.video is not None}
                    self._index.add(
                        fitted,
                        vectors,
                        replaced_videos=videos,
                        replaces_tiles=self._index.tiles is not None,
                    )
                self.left_out += left_out
        self._known.add_contents([row.row for row in load.rows])
        if self._index.is_created or len(load.outcomes) >= _OUTCOMES_OF_A_COMMIT:
            self._log.append(_outcomes_of(load), self._run)

    def _with_file_columns(self, item: CommittedItem) -> Row:
        row = read_given_time(item.row, self._index.schema)
        if not self._index.metadata_choice.reads:
            return row
        row, left_out = add_file_columns(row, item.file_columns, self._index.schema)
        self.left_out += left_out
        return row

    def _note_source_columns(self, items: Sequence[CommittedItem]) -> None:
        """Remember which columns sources gave values for, before these values are written."""
        given = frozenset[str]().union(*(given_columns(item.row) for item in items))
        choice = self._index.metadata_choice
        if not given <= choice.source_columns:
            columns = choice.source_columns | given
            self._index.remember(choice._replace(source_columns=columns))


def _outcomes_of(load: _Load) -> list[Outcome]:
    return [row.outcome for row in load.rows if row.outcome is not None] + load.outcomes


@dataclass(slots=True)
class Progress:
    """Counts of one run.

    Attributes:
        num_listed: items listed so far.
        is_listing: whether the sources are still listing.
        counts: finished items by status.
        num_failed_before: failed items that were not read again, as they failed in an earlier run
            and have not changed.
        decode_seconds: time for reading, decoding and resizing, over all threads.
        encode_seconds: time in the model, over all calls.
        notes: messages about the run, such as rows that were not pruned.
    """

    num_listed: int = 0
    is_listing: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    num_failed_before: int = 0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """Number of items with an outcome."""
        return self.counts.total() - self.counts["vanished"] - self.counts["pruned"]
