"""An indexing run: adds the images of sources to an index and reports an outcome for each.

Listing, decoding, computing and committing overlap. A run may be killed at any time; the next one
continues from there. Unchanged files are not read, copies and renamed files reuse the vector of
their content, and a bad file does not stop the run.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, NamedTuple

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.pipeline import map_ahead
from perception_encoder.index import Index, KnownRows, Outcome, OutcomeLog, write_lock
from perception_encoder.index.known_rows import RowLocation
from perception_encoder.index.schema import FILE_COLUMNS
from perception_encoder.index.tiles import TileGrid, image_member
from perception_encoder.indexing.commit import CommittedItem, Committer, Progress
from perception_encoder.indexing.feed import Feed
from perception_encoder.indexing.photo_metadata import forget_folders
from perception_encoder.indexing.prepare import (
    ComputedBatch,
    Computer,
    Preparation,
    PreparedImage,
    ThreadPreparation,
)
from perception_encoder.indexing.refresh import refresh_files
from perception_encoder.indexing.sidecars import SidecarTimes
from perception_encoder.indexing.video_contents import LocalVideoReader, VideoReader
from perception_encoder.indexing.videos import PreparedVideo, VideoPreparation
from perception_encoder.sources import Source
from perception_encoder.sources.columns import MAX_COLUMNS
from perception_encoder.sources.item import ReportingSource, collect_notes
from perception_encoder.video.names import is_moment

_PATIENCE_SECONDS: Final = 1.0  # how long an incomplete batch waits for slow sources
_DELETED_AT_ONCE: Final = 1000
_NUM_SHOWN: Final = 5  # damaged videos in a note


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Settings of a run.

    Attributes:
        batch_size: images per batch.
        prune: delete the rows of images that are gone from their source.
        wait: wait for another run on the index instead of raising.
        prunes_all: delete rows even if a source lists nothing. Without it they are kept, as an
            unmounted disk looks the same.
        retries_failures: also retry failed items that have not changed.
        metadata: whether to store what the files say of the photos (date, place, camera …); None
            for what the index remembers, else it remembers this.
        tiles: how to divide images into tiles, which get rows, too; None for what the index
            remembers, which is set before its first image.
    """

    batch_size: int = 32
    prune: bool = False
    prunes_all: bool = False
    wait: bool = False
    retries_failures: bool = False
    metadata: bool | None = None
    tiles: TileGrid | None = None


class _Task(NamedTuple):
    """A batch, and the rows that were not committed when it was built, by content."""

    batch: Sequence[PreparedImage]
    waiting: Mapping[str, CommittedItem]


class Run:
    """One run over sources; `outcomes` does the work, `progress` counts it.

    Args:
        model: the model of the index.
        index: the index.
        sources: the sources.
        options: see `RunOptions`.
        open_preparing: opens the `Preparation`; None for threads of this process.
        open_videos: opens the `VideoReader`; None for one of this process.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        index: Index,
        sources: Sequence[Source],
        options: RunOptions | None = None,
        *,
        open_preparing: Callable[[], Preparation] | None = None,
        open_videos: Callable[[], VideoReader] | None = None,
    ) -> None:
        self._model = model
        self._index = index
        self._sources = sources
        self._options = options or RunOptions()
        self._open_preparing = open_preparing or self._open_threads
        self._open_videos = open_videos or self._open_local_videos
        self._log = OutcomeLog(index.path)
        self._damaged: dict[str, int] = {}  # packets that could not be decoded, by video
        self.progress = Progress()

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Do the work, and yield the outcome of each item once it is committed.

        The run stops when the caller stops iterating; computed rows are committed first.

        Raises:
            IndexMismatchError: the index has another model, or other tiles.
            IndexBusyError: another process is writing to it.
            IndexStorageError: it cannot be read or written; earlier commits are kept.
        """
        self._index.check(self._model.identity)
        with write_lock(self._index.path, wait=self._options.wait):
            self._index.refresh()
            forget_folders()
            self._remember_choice()
            if self._options.tiles is not None:
                self._index.set_tiles(self._options.tiles)
            known = self._index.known_rows()
            failures = {outcome.id: outcome for outcome in self._log.latest(["failed"])}
            sidecars = SidecarTimes(self._index.path)
            feed = self._feed(known, failures, sidecars)
            run, pruned = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), list[Outcome]()
            committer = Committer(self._index, self._log, known, run)
            with closing(feed):
                try:
                    for finished in self._work(feed, committer):
                        self._count(finished)
                        yield from finished
                    vanished, gone = self._missing(feed, known, failures)
                    committer.add_outcomes(vanished)
                    pruned = self._pruned(gone, run)
                finally:
                    rest = committer.close()
                    self._count(rest)
                    self.progress.notes += collect_notes(self._sources)
                    self.progress.notes += _of_damaged(self._damaged)
                    self.progress.notes += _of_repeated(feed.num_repeated)
                    self.progress.notes += _of_metadata(committer.left_out)
                    self.progress.notes += _of_columns(committer.columns_left_out)
            self._refresh(feed)
            if self._index.is_created:
                sidecars.note(self._sources)
            self._count(pruned)
            yield from [*rest, *pruned]
            self._log.compact()

    def _feed(self, known: KnownRows, failures: dict[str, Outcome], sidecars: SidecarTimes) -> Feed:
        return Feed(
            self._sources,
            known,
            failures,
            self._open_preparing(),
            VideoPreparation(self._open_videos(), self._index),
            self.progress,
            retries_failures=self._options.retries_failures,
            sidecars=sidecars if self._index.metadata_choice.reads else None,
            tiles=self._index.tiles,
        )

    def _refresh(self, feed: Feed) -> None:
        """Read the metadata of files again whose sidecars have changed."""
        if feed.changed_sidecars:
            progress = refresh_files(self._index, feed.changed_sidecars)
            num_files, num_rows = len(feed.changed_sidecars), progress.num_changed
            self.progress.notes.append(
                f"the sidecars of {num_files:,} {'file' if num_files == 1 else 'files'} changed: "
                f"the metadata was read again, and {num_rows:,} "
                f"{'row has' if num_rows == 1 else 'rows have'} other values now"
            )
            self.progress.notes += progress.notes()

    def _remember_choice(self) -> None:
        """Store whether to read metadata, and note columns that an earlier choice has filled."""
        choice = self._index.metadata_choice
        if self._options.metadata is not None:
            choice = choice._replace(reads=self._options.metadata)
        self._index.remember(choice)
        filled = sorted(set(FILE_COLUMNS) & set(self._index.schema.names) - choice.source_columns)
        if self._options.metadata is False and filled:
            self.progress.notes += [
                f"the index keeps the metadata that earlier runs stored ({', '.join(filled)}); "
                "index anew with --no-metadata to be without it"
            ]

    def _open_threads(self) -> ThreadPreparation:
        window = (2 + self._model.backend.concurrency) * self._images_of_a_batch
        return ThreadPreparation(self._model.processor, window=window)

    def _open_local_videos(self) -> LocalVideoReader:
        return LocalVideoReader(self._model, batch_size=self._options.batch_size)

    @property
    def _images_of_a_batch(self) -> int:
        """A batch is of so many images that they and their tiles are as many as is asked for."""
        tiles = self._options.tiles or self._index.tiles
        return max(1, self._options.batch_size // (1 + (tiles.count if tiles else 0)))

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        self.progress.counts.update(outcome.status for outcome in outcomes)

    def _work(self, feed: Feed, committer: Committer) -> Iterator[list[Outcome]]:
        """Compute prepared images, and yield outcomes as they are committed."""
        computer = Computer(self._model, self._index)

        def compute(task: _Task) -> ComputedBatch:
            return computer.rows(task.batch, task.waiting)

        tasks = self._tasks(feed, committer)
        for task, computed in map_ahead(compute, tasks, self._model.backend.concurrency):
            committer.add(computed.rows)
            committer.add_outcomes(computed.failed)
            self.progress.encode_seconds += computed.encode_seconds
            if task.batch:
                feed.release(len(task.batch))
            yield committer.finished()

    def _tasks(self, feed: Feed, committer: Committer) -> Iterator[_Task]:
        """Yield full batches, smaller ones of slow sources, and empty ones for due commits."""
        batch: list[PreparedImage] = []
        for event in feed.events(patience_seconds=_PATIENCE_SECONDS):
            if isinstance(event, list):
                committer.add_outcomes(event)
                if committer.is_due:
                    yield _Task([], {})
                continue
            if isinstance(event, PreparedVideo):
                committer.add(event.rows)
                if event.num_damaged:
                    self._damaged[event.rows[0].row.uri] = event.num_damaged
                self.progress.encode_seconds += event.encode_seconds
                feed.release(1)
                if committer.is_due:
                    yield _Task([], {})
                continue
            if event is not None:
                batch.append(event)
            if event is None or len(batch) == self._images_of_a_batch:
                yield _Task(batch, committer.waiting())
                batch = []
        yield _Task(batch, committer.waiting())

    def _missing(
        self, feed: Feed, known: KnownRows, failures: Mapping[str, Outcome]
    ) -> tuple[list[Outcome], list[RowLocation]]:
        """Find what sources no longer list: outcomes of kept rows, and the rows to delete."""
        vanished, gone = list[Outcome](), list[RowLocation]()
        empty, excluded = Counter[str](), Counter[str]()
        for place in known.unseen():
            source, is_excluded = self._source_of(*_item_of(place))
            if source is None:
                continue
            name = self._sources[source].name
            if self._options.prune and (self._options.prunes_all or feed.num_items_of[source]):
                gone.append(place)
                continue
            empty[name] += self._options.prune
            if is_excluded:
                excluded[name] += not self._options.prune
            else:
                vanished.append(Outcome(place.uri, "vanished", member=_item_of(place)[1]))
        vanished = list({outcome.id: outcome for outcome in vanished}.values())
        self.progress.notes += _of_kept_rows(+empty, +excluded)
        for failure in failures.values():
            is_met = failure.id in feed.failures_met
            if not is_met and self._source_of(failure.uri, failure.member)[0] is not None:
                vanished.append(Outcome(failure.uri, "vanished", member=failure.member))
        return vanished, gone

    def _pruned(self, places: Sequence[RowLocation], run: str) -> list[Outcome]:
        """Delete rows after logging it, so a run that is killed in between finds them again."""
        items = dict.fromkeys(_item_of(place) for place in places)
        outcomes = [Outcome(uri, "pruned", member=member) for uri, member in items]
        self._log.append(outcomes, run)
        for start in range(0, len(places), _DELETED_AT_ONCE):
            self._index.delete(place.id for place in places[start : start + _DELETED_AT_ONCE])
        return outcomes

    def _source_of(self, uri: str, member: str | None) -> tuple[int | None, bool]:
        """Return the source that would list this image, and whether it is excluded there."""
        for number, source in enumerate(self._sources):
            if source.covers(uri, member):
                return number, False
        for number, source in enumerate(self._sources):
            if isinstance(source, ReportingSource) and source.leaves_out(uri, member):
                return number, True
        return None, False


def _item_of(place: RowLocation) -> tuple[str, str | None]:
    """Return the uri and member of the item that a row is of.

    Of a segment that is the whole video, of a tile the whole image.
    """
    if is_moment(place.uri, place.member):
        return place.uri, None
    return place.uri, image_member(place.member)


def _of_kept_rows(empty: Mapping[str, int], excluded: Mapping[str, int]) -> list[str]:
    notes = [
        f"{name}: nothing was found there, so its {count} rows are kept: a disk that "
        "is not mounted looks like this"
        for name, count in empty.items()
    ]
    return notes + [
        f"{name}: {count:,} images that this run leaves out are in the index; --prune removes them"
        for name, count in excluded.items()
    ]


def _of_repeated(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count:,} entries name an image that an earlier entry named, with other metadata; an "
        "image has one row, and the first entry's metadata"
    ]


def _of_damaged(videos: Mapping[str, int]) -> list[str]:
    if not videos:
        return []
    shown = [
        f"{uri} ({count:,} {'packet' if count == 1 else 'packets'})"
        for uri, count in list(videos.items())[:_NUM_SHOWN]
    ]
    more = [f"{len(videos) - _NUM_SHOWN:,} more"] if len(videos) > _NUM_SHOWN else []
    parts = "a part" if len(videos) == 1 else "parts"
    return [f"left out {parts} that could not be decoded: {', '.join(shown + more)}"]


def _of_columns(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count:,} columns of metadata were left out: an index has at most {MAX_COLUMNS}; make "
        "another one, or indexes of fewer columns"
    ]


def _of_metadata(left_out: Mapping[str, int]) -> list[str]:
    return [
        f"metadata {name!r}: {count} values are of another kind than the index's column, and were "
        "left out"
        for name, count in left_out.items()
    ]
