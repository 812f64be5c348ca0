"""Lists what sources hold and prepares what the index does not have, ahead of the model.

One thread lists, others read and decode, and whoever iterates gets what is done. However much the
sources hold, only a window of it is in memory. Knows nothing of models.
"""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index import FileState, KnownRows, Outcome
from perception_encoder.index.known_rows import DigestMap, digests_of
from perception_encoder.indexing.commit import Progress
from perception_encoder.indexing.prepare import ListedItem, Preparation, PreparedImage
from perception_encoder.sources import Item, Source

_LISTED_AT_ONCE: Final = 256
_WAITING_EVENTS: Final = 64
_GLANCE_SECONDS: Final = 0.1  # how often a waiting thread looks whether it should stop
_LASTING: Final = frozenset(
    ("ImageDecodeError", "ImageEmptyError", "ImageTruncatedError", "ImageTooLargeError")
)
"""Reasons that lie in a file's content: as long as it has not changed, trying again is in vain."""


class Feed:
    """Items of sources, each as an outcome (skipped, failed) or prepared for the model.

    Args:
        sources: what to list.
        known: what the index has.
        failures: outcomes of items that failed before, by key.
        preparing: where items are prepared; closed with the feed.
        progress: is told of what was listed and decoded.
        retries_failures: read what failed before again, also where it has not changed.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        known: KnownRows,
        failures: Mapping[str, Outcome],
        preparing: Preparation,
        progress: Progress,
        *,
        retries_failures: bool = False,
    ) -> None:
        self._sources = sources
        self._known = known
        self._failures = failures
        self._preparing = preparing
        self._progress = progress
        self._retries_failures = retries_failures
        self._listed = DigestMap()
        self.num_items_of = dict.fromkeys(range(len(sources)), 0)
        self.failures_met = set[str]()
        self.num_repeated = 0  # entries of an image listed before, with other metadata
        self._events: queue.Queue[PreparedImage | list[Outcome] | Exception | None]
        self._events = queue.Queue(_WAITING_EVENTS)
        self._window = threading.Semaphore(preparing.window)
        self._stop = threading.Event()
        self._unfinished = 1  # the listing itself
        self._count_lock = threading.Lock()
        self._lister = threading.Thread(target=self._list, name="list", daemon=True)

    def events(self, *, patience_seconds: float) -> Iterator[PreparedImage | list[Outcome] | None]:
        """Yield what is done, in the order in which it is done; None when nothing came for a while.

        Args:
            patience_seconds: after which None is yielded.
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
            yield event

    def close(self) -> None:
        """Stop listing and decoding."""
        self._stop.set()
        self._preparing.close()

    def _list(self) -> None:
        try:
            for number, source in enumerate(self._sources):
                items = source.items()
                while not self._stop.is_set() and (part := list(islice(items, _LISTED_AT_ONCE))):
                    self.num_items_of[number] += len(part)
                    self._take(part)
        except Exception as err:  # noqa: BLE001  raised again where the events are read
            self._put(err)
        self._progress.is_listing = False
        self._one_finished()

    def _take(self, items: list[Item]) -> None:
        """Sort listed items into those to prepare and those whose outcome is known."""
        by_id, digests = self._new_of(items)
        self._progress.num_listed += len(by_id)
        states = self._known.look_up(digests)
        outcomes, to_prepare = list[Outcome](), list[ListedItem]()
        for (key, item), before in zip(by_id.items(), states, strict=True):
            failure = self._failures.get(key)
            if failure is not None:
                self.failures_met.add(key)
            if before is not None and _is_unchanged(item, before):
                outcomes.append(_skipped(item))
            elif failure is not None and self._is_in_vain(item, failure):
                self._progress.num_failed_before += 1
                outcomes.append(replace(failure, decode_ms=0.0))
            else:
                to_prepare.append(ListedItem(item, is_new=before is None))
        if outcomes:
            self._put(outcomes)
        size = self._preparing.chunk_size
        for start in range(0, len(to_prepare), size):
            self._submit(to_prepare[start : start + size])

    def _is_in_vain(self, item: Item, failure: Outcome) -> bool:
        """Whether the item would fail again: its content was at fault and is the same."""
        return (
            not self._retries_failures
            and failure.reason in _LASTING
            and item.mtime is not None
            and (item.bytes, item.mtime) == (failure.bytes, failure.mtime)
        )

    def _new_of(self, items: list[Item]) -> tuple[dict[str, Item], NDArray[np.uint64]]:
        """Leave out what was listed before, as sources may overlap; by key, and the digests.

        The first entry of an image counts; others that say something else of it are counted.
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
        for _ in chunk:
            while not self._window.acquire(timeout=_GLANCE_SECONDS):
                if self._stop.is_set():
                    return
        if self._stop.is_set():
            return
        with self._count_lock:
            self._unfinished += 1
        future = self._preparing.submit(chunk, self._known.id_of_content)
        future.add_done_callback(self._take_prepared)

    def _take_prepared(self, future: Future[list[PreparedImage | Outcome]]) -> None:
        if not future.cancelled():
            if isinstance(err := future.exception(), Exception):
                self._put(err)
            else:
                self._put_prepared(future.result())
        self._one_finished()

    def _put_prepared(self, results: list[PreparedImage | Outcome]) -> None:
        for result in results:
            if isinstance(result, Outcome):
                self.release(1)
                self._put([result])
            else:
                self._put(result)

    def _one_finished(self) -> None:
        with self._count_lock:
            self._unfinished -= 1
            is_last = self._unfinished == 0
        if is_last:
            self._put(None)

    def release(self, count: int) -> None:
        """Say that so many prepared images have been used."""
        self._window.release(count)

    def _put(self, event: PreparedImage | list[Outcome] | Exception | None) -> None:
        while not self._stop.is_set():
            try:
                self._events.put(event, timeout=_GLANCE_SECONDS)
            except queue.Full:
                continue
            return


def _hash_of(item: Item) -> int:
    """Return a number, at least 0, that tells metadata apart."""
    return hash(frozenset(item.metadata.items())) & 2**62 - 1


def _is_unchanged(item: Item, before: FileState) -> bool:
    if item.mtime is None:  # a URL's is not known without asking for it: what is there stays
        return item.is_remote
    return item.mtime == before.mtime and item.bytes in (None, before.bytes)


def _skipped(item: Item) -> Outcome:
    return Outcome(
        item.uri,
        "skipped",
        member=item.member,
        offset=item.offset,
        bytes=item.bytes,
        mtime=item.mtime,
    )
