"""Lists the items of sources, and prepares those that are not in the index, ahead of the model.

One thread lists, others read and decode. Only a window of the items is in memory.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index import FileState, KnownRows, Outcome
from perception_encoder.index.known_rows import DigestMap, digests_of
from perception_encoder.index.tiles import TileGrid
from perception_encoder.indexing.commit import Progress
from perception_encoder.indexing.prepare import ListedItem, Preparation, PreparedImage
from perception_encoder.indexing.sidecars import SidecarTimes
from perception_encoder.indexing.videos import PreparedVideo, VideoPreparation, is_video_item
from perception_encoder.sources import Item, Source
from perception_encoder.sources.item import Sidecar

_LISTED_AT_ONCE: Final = 256
_WAITING_EVENTS: Final = 64
_POLL_SECONDS: Final = 0.1  # how often a waiting thread checks whether to stop
_PERMANENT: Final = frozenset(
    (
        "ImageDecodeError", "ImageEmptyError", "ImageTruncatedError", "ImageTooLargeError",
        "VideoDecodeError",
    )
)  # fmt: skip
"""Failures caused by a file's content: retrying is useless until it changes."""


FeedEvent: TypeAlias = PreparedImage | PreparedVideo | list[Outcome] | None


class Feed:
    """The items of sources, each as an outcome (skipped, failed) or prepared for the model.

    Args:
        sources: the sources to list.
        known: the rows of the index.
        failures: outcomes of items that failed before, by id.
        preparing: prepares images; closed with the feed, as is the next.
        videos: prepares video files.
        progress: counts what is listed and decoded.
        retries_failures: also retry failed items that have not changed.
        sidecars: says whose sidecars have changed; None if no metadata is read from files.
        tiles: how images are divided; None for no tiles.
    """

    def __init__(  # noqa: PLR0913  what a run has opened, and its options
        self,
        sources: Sequence[Source],
        known: KnownRows,
        failures: Mapping[str, Outcome],
        preparing: Preparation,
        videos: VideoPreparation,
        progress: Progress,
        *,
        retries_failures: bool = False,
        sidecars: SidecarTimes | None = None,
        tiles: TileGrid | None = None,
    ) -> None:
        self._sources = sources
        self._sidecars = sidecars
        self.changed_sidecars: dict[str, Sequence[Sidecar]] = {}  # by the URI of unchanged files
        self._known = known
        self._failures = failures
        self._preparing = preparing
        self._videos = videos
        self._progress = progress
        self._retries_failures = retries_failures
        self._tiles = tiles
        self._listed = DigestMap()
        self.num_items_of = dict.fromkeys(range(len(sources)), 0)
        self.failures_met = set[str]()
        self.num_repeated = 0  # entries of an image listed before, with other metadata
        self._events: queue.Queue[FeedEvent | Exception]
        self._events = queue.Queue(_WAITING_EVENTS)
        self._window = threading.Semaphore(preparing.window)
        self._stop = threading.Event()
        self._unfinished = 1  # the listing itself
        self._count_lock = threading.Lock()
        self._lister = threading.Thread(target=self._list, name="list", daemon=True)

    def events(self, *, patience_seconds: float) -> Iterator[FeedEvent]:
        """Yield results as they finish; None if there was none for a while.

        Args:
            patience_seconds: the time after which None is yielded.
        """
        self._lister.start()
        while True:
            try:
                event = self._events.get(timeout=patience_seconds)
            except queue.Empty:
                yield None
                continue
            if isinstance(event, Exception):
                raise event
            if event is None:
                return
            if isinstance(event, PreparedImage):
                self._progress.decode_seconds += event.decode_ms / 1000
            elif isinstance(event, PreparedVideo):
                self._progress.decode_seconds += event.decode_seconds
            yield event

    def close(self) -> None:
        """Stop listing and decoding."""
        self._stop.set()
        self._videos.close()
        self._preparing.close()

    def _list(self) -> None:
        try:
            for number, source in enumerate(self._sources):
                items = source.items()
                has_changed = None if self._sidecars is None else self._sidecars.checks(source)
                while not self._stop.is_set() and (part := list(islice(items, _LISTED_AT_ONCE))):
                    self.num_items_of[number] += len(part)
                    self._take(part, has_changed)
        except Exception as err:  # noqa: BLE001  raised again where the events are read
            self._put(err)
        self._progress.is_listing = False
        self._finish_one()

    def _take(self, items: list[Item], has_changed: Callable[[Item], bool] | None) -> None:
        """Split listed items into those to prepare and those with a known outcome.

        Args:
            items: listed.
            has_changed: whether a sidecar of an unchanged file has; None if none is read.
        """
        by_id, digests = self._find_new(items)
        self._progress.num_listed += len(by_id)
        states = self._known.look_up(digests)
        outcomes, to_prepare = list[Outcome](), list[ListedItem]()
        for (key, item), before in zip(by_id.items(), states, strict=True):
            failure = self._failures.get(key)
            if failure is not None:
                self.failures_met.add(key)
            if is_video_item(item):
                before = self._known.look_up_video(item.uri)
            if before is not None and _is_unchanged(item, before):
                outcomes.append(_make_skipped(item))
                if has_changed is not None and has_changed(item):
                    self.changed_sidecars[item.uri] = item.sidecars
            elif failure is not None and self._will_fail_again(item, failure):
                self._progress.num_failed_before += 1
                outcomes.append(replace(failure, decode_ms=0.0))
            else:
                reads_metadata = self._sidecars is not None
                to_prepare.append(ListedItem(item, before is None, reads_metadata, self._tiles))
        if outcomes:
            self._put(outcomes)
        for video in (one for one in to_prepare if is_video_item(one.item)):
            self._submit_video(video)
        images = [one for one in to_prepare if not is_video_item(one.item)]
        size = self._preparing.chunk_size
        for start in range(0, len(images), size):
            self._submit(images[start : start + size])

    def _will_fail_again(self, item: Item, failure: Outcome) -> bool:
        """Whether the item would fail again, because of the same content."""
        return (
            not self._retries_failures
            and failure.reason in _PERMANENT
            and item.mtime is not None
            and (item.bytes, item.mtime) == (failure.bytes, failure.mtime)
        )

    def _find_new(self, items: list[Item]) -> tuple[dict[str, Item], NDArray[np.uint64]]:
        """Return the items that were not listed before, by id, and their digests.

        Sources may overlap. The first entry of an image is used; later ones with other metadata are
        counted.
        """
        by_id: dict[str, Item] = {}
        for item in items:
            by_id.setdefault(item.id, item)
        digests = digests_of(list(by_id))
        found = self._listed.find(digests)
        is_new = found < 0
        own = np.array([_hash_of(item) for item in by_id.values()], np.int64)
        firsts = np.where(is_new, own, found)
        self._listed.add(digests[is_new], own[is_new])
        hashes = dict(zip(by_id, firsts.tolist(), strict=True))
        self.num_repeated += sum(hashes[item.id] != _hash_of(item) for item in items)
        new = {key: by_id[key] for key, new in zip(by_id, is_new, strict=True) if new}
        return new, digests[is_new]

    def _submit(self, chunk: Sequence[ListedItem]) -> None:
        if self._enter(len(chunk)):
            future = self._preparing.submit(chunk, self._known.id_of_content)
            future.add_done_callback(self._take_prepared)

    def _submit_video(self, video: ListedItem) -> None:
        if self._enter(1):
            future = self._videos.submit(video, self._known.id_of_content)
            future.add_done_callback(self._take_video)

    def _enter(self, count: int) -> bool:
        """Wait for room for so many items; return False if the run stops."""
        for _ in range(count):
            while not self._window.acquire(timeout=_POLL_SECONDS):
                if self._stop.is_set():
                    return False
        if self._stop.is_set():
            return False
        with self._count_lock:
            self._unfinished += 1
        return True

    def _take_prepared(self, future: Future[list[PreparedImage | Outcome]]) -> None:
        if not future.cancelled():
            if isinstance(err := future.exception(), Exception):
                self._put(err)
            else:
                self._put_prepared(future.result())
        self._finish_one()

    def _take_video(self, future: Future[PreparedVideo | Outcome]) -> None:
        if not future.cancelled():
            if isinstance(err := future.exception(), Exception):
                self._put(err)
            else:
                result = future.result()
                if isinstance(result, Outcome):
                    self.release(1)
                self._put([result] if isinstance(result, Outcome) else result)
        self._finish_one()

    def _put_prepared(self, results: list[PreparedImage | Outcome]) -> None:
        for result in results:
            if isinstance(result, Outcome):
                self.release(1)
                self._put([result])
            else:
                self._put(result)

    def _finish_one(self) -> None:
        with self._count_lock:
            self._unfinished -= 1
            is_last = self._unfinished == 0
        if is_last:
            self._put(None)

    def release(self, count: int) -> None:
        """Report that so many prepared images are done."""
        self._window.release(count)

    def _put(self, event: FeedEvent | Exception) -> None:
        while not self._stop.is_set():
            try:
                self._events.put(event, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return


def _hash_of(item: Item) -> int:
    """Return a hash of the metadata, at least 0."""
    return hash(frozenset(item.metadata.items())) & 2**62 - 1


def _is_unchanged(item: Item, before: FileState) -> bool:
    if item.mtime is None:  # unknown for a URL: it is not read again
        return item.is_remote
    return item.mtime == before.mtime and item.bytes in (None, before.bytes)


def _make_skipped(item: Item) -> Outcome:
    return Outcome(
        item.uri,
        "skipped",
        member=item.member,
        offset=item.offset,
        bytes=item.bytes,
        mtime=item.mtime,
    )
