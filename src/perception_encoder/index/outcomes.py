"""The outcomes of all items of runs: a second Lance dataset in the index's folder.

Runs append to it. The last outcome of an item counts; `compact` drops the others.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.known_rows import DigestMap, digests_of, digests_of_column
from perception_encoder.index.rows import MetadataValue, clamp_time, row_id, to_text
from perception_encoder.index.storage import sidecar_path, storage_errors

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

Status = Literal["embedded", "reused", "skipped", "failed", "vanished", "pruned"]
STATUSES: Final = get_args(Status)

_MAX_SUPERSEDED: Final = 0.75  # of the rows; more are dropped at the end of a run
_MAX_FILES: Final = 8  # more are joined
_BLOCK_ROWS: Final = 16384
_READERS_NEED: Final = datetime.timedelta(days=1)  # a version that may still be read
_OF_THE_RUN: Final = ("id", "run", "at")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one item of a run.

    Attributes:
        uri: the file that holds it.
        status: embedded: computed and stored. reused: stored with the vector of the same content.
            skipped: in the index and unchanged. failed: see `reason`. vanished: in the index, but
            no longer in its source. pruned: vanished, and its row deleted.
        member: its name inside an archive or index.
        offset: where its bytes begin in the archive.
        reason: of a failure: the name of the error's class, such as `ImageTruncatedError`.
        message: of a failure: the error's message.
        bytes: size of the encoded image, where known.
        mtime: of the file, ns since 1970, where known.
        decode_ms: time for reading, decoding and resizing, milliseconds.
        encode_ms: its share of the time of its batch in the model, milliseconds.
        metadata: of a failure: its metadata, so that it can be retried alone.
    """

    uri: str
    status: Status
    member: str | None = None
    offset: int | None = None
    reason: str = ""
    message: str = ""
    bytes: int | None = None
    mtime: int | None = None
    decode_ms: float = 0.0
    encode_ms: float = 0.0
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of the item's row."""
        return row_id(self.uri, self.member)


class OutcomeLog:
    """The outcomes of the index at `path`."""

    def __init__(self, path: str) -> None:
        self.path: Final = sidecar_path(path, "outcomes.lance")

    def append(self, outcomes: Sequence[Outcome], run: str) -> None:
        """Add outcomes, in one commit.

        Args:
            outcomes: with URIs that are valid Unicode.
            run: names the run.

        Raises:
            IndexStorageError: writing failed; nothing was added.
        """
        if not outcomes:
            return
        import lance

        mode = "create" if self._open() is None else "append"
        with storage_errors(self.path):
            lance.write_dataset(_to_arrow(outcomes, run), self.path, mode=mode)

    def latest(self, statuses: Collection[Status] = STATUSES) -> Iterator[Outcome]:
        """Yield the last outcome of each item, if it has one of the statuses.

        Raises:
            IndexStorageError: reading failed.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(statuses, pa.string())
        names = [name for name in _schema().names if name not in _OF_THE_RUN]
        dataset = self._open()
        if dataset is None:
            return
        with storage_errors(self.path):
            chosen = np.flatnonzero(
                np.concatenate(
                    [
                        is_latest & pc.is_in(batch["status"], wanted).to_numpy(zero_copy_only=False)
                        for batch, is_latest in _with_latest(dataset, ["status"])
                    ]
                )
            )
            for start in range(0, len(chosen), _BLOCK_ROWS):
                places = chosen[start : start + _BLOCK_ROWS].tolist()
                yield from _outcomes_of(dataset.take(places, columns=names))

    def counts(self) -> Counter[str]:
        """Return the number of items by their last status."""
        found = Counter[str]()
        for batch in self._latest(["status"]):
            found.update(batch["status"].to_pylist())
        return found

    def compact(self) -> None:
        """Drop outcomes that were replaced, if there are many, and versions older than a day.

        Raises:
            IndexStorageError: writing failed; the outcomes are as before.
        """
        dataset = self._open()
        if dataset is None:
            return
        import lance

        with storage_errors(self.path):
            is_latest = _latest_rows(dataset)
            if is_latest.sum() < (1 - _MAX_SUPERSEDED) * len(is_latest):
                kept = self._latest(_schema().names)
                dataset = lance.write_dataset(kept, self.path, schema=_schema(), mode="overwrite")
            elif len(dataset.get_fragments()) > _MAX_FILES:
                dataset.optimize.compact_files()
            dataset.cleanup_old_versions(older_than=_READERS_NEED)

    def _latest(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of the last outcome of each item, block by block."""
        dataset = self._open()
        if dataset is None:
            return
        with storage_errors(self.path):
            for batch, is_latest in _with_latest(dataset, columns):
                yield batch.take(np.flatnonzero(is_latest))

    def _open(self) -> lance.LanceDataset | None:
        import lance

        with storage_errors(self.path):
            try:
                return lance.dataset(self.path)
            except ValueError as err:
                if "was not found" not in str(err):
                    raise
                return None


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("member", pa.string()),
            pa.field("offset", pa.int64()),
            pa.field("status", pa.string(), nullable=False),
            pa.field("reason", pa.string()),
            pa.field("message", pa.string()),
            pa.field("bytes", pa.int64()),
            pa.field("mtime", pa.int64()),
            pa.field("decode_ms", pa.float32()),
            pa.field("encode_ms", pa.float32()),
            pa.field("metadata", pa.string()),
            pa.field("run", pa.string()),
            pa.field("at", pa.timestamp("ms", tz="UTC")),
        ]
    )


def _to_arrow(outcomes: Sequence[Outcome], run: str) -> pa.Table:
    import pyarrow as pa

    names = [name for name in _schema().names if name not in ("metadata", "run", "at")]
    values = zip(*map(attrgetter(*names), outcomes), strict=True)
    columns: dict[str, Any] = dict(zip(names, map(list, values), strict=True))
    columns["mtime"] = [clamp_time(mtime) for mtime in columns["mtime"]]
    columns["metadata"] = [
        json.dumps(dict(outcome.metadata), default=to_text) if outcome.metadata else None
        for outcome in outcomes
    ]
    now = datetime.datetime.now(datetime.UTC)
    columns |= {"run": [run] * len(outcomes), "at": [now] * len(outcomes)}
    return pa.table(columns, schema=_schema())


def _outcomes_of(index: pa.Table) -> Iterator[Outcome]:
    for row in index.to_pylist():
        row["metadata"] = json.loads(row["metadata"] or "{}")
        yield Outcome(**row)


def _with_latest(
    dataset: lance.LanceDataset, columns: list[str]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.bool_]]]:
    """Yield columns block by block, and which rows are the last of their items."""
    is_latest, start = _latest_rows(dataset), 0
    for batch in dataset.to_batches(columns=columns, batch_size=_BLOCK_ROWS):
        yield batch, is_latest[start : start + batch.num_rows]
        start += batch.num_rows


def _latest_rows(dataset: lance.LanceDataset) -> NDArray[np.bool_]:
    """Return for each row whether it is the last of its item."""
    batches = dataset.to_batches(columns=["id"], batch_size=_BLOCK_ROWS)
    digests = np.concatenate(
        [digests_of([]), *(digests_of_column(batch["id"]) for batch in batches)]
    )
    last = DigestMap()
    last.add(digests, np.arange(len(digests)))
    is_latest = np.zeros(len(digests), np.bool_)
    is_latest[last.numbers()] = True
    return is_latest
