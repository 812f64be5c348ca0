"""Prepares video files for a run: each becomes the rows of its segments.

Videos are read on threads of their own, while images go on beside them. A copy of an indexed video
takes its segments from the index.
"""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.index import Index, Outcome, Row
from perception_encoder.indexing.commit import CommittedItem
from perception_encoder.indexing.photo_metadata import read_video_columns
from perception_encoder.indexing.prepare import ListedItem, make_failure
from perception_encoder.indexing.video_contents import StoredSegment, VideoContent, VideoReader
from perception_encoder.sources import Item
from perception_encoder.video.names import format_moment, is_moment, is_video

DAMAGED_PACKETS: Final = "damaged_packets"
"""Column: packets of a video that could not be decoded; null where all could."""

_MAX_RECENT: Final = 32  # videos whose segments are remembered, for copies in the same folder
_MILLISECOND: Final = 0.001


@dataclass(frozen=True, slots=True)
class PreparedVideo:
    """A video whose segments are embedded.

    Attributes:
        rows: to commit together.
        num_damaged: packets of the file that could not be decoded.
        decode_seconds: time for reading, decoding and resizing.
        encode_seconds: time in the model.
    """

    rows: Sequence[CommittedItem]
    num_damaged: int
    decode_seconds: float
    encode_seconds: float


def is_video_item(item: Item) -> bool:
    """Whether an item is a video file of this machine."""
    return item.member is None and not item.is_remote and is_video(item.uri)


def segment_digest(sha256: str, number: int) -> str:
    """Return what stands for the content of a segment: the file's SHA-256 for the first one.

    So copies of a video are found by the file's hash, and segments of one file differ.
    """
    return hashlib.sha256(f"{sha256}#{number}".encode()).hexdigest() if number else sha256


class VideoPreparation:
    """Prepares the videos of a run.

    Args:
        reader: reads and embeds them; closed with this.
        index: has the segments of contents that are known.
    """

    def __init__(self, reader: VideoReader, index: Index) -> None:
        self._reader = reader
        self._index = index
        self._pool = ThreadPoolExecutor(reader.num_at_once, "video")
        self._recent: OrderedDict[str, VideoContent] = OrderedDict()
        self._lock = threading.Lock()  # of what is remembered

    def submit(
        self, listed: ListedItem, find_duplicate: Callable[[str], str | None]
    ) -> Future[PreparedVideo | Outcome]:
        """Start to prepare a video; arguments as for `Preparation.submit`."""
        return self._pool.submit(self._prepare, listed, find_duplicate)

    def close(self) -> None:
        """Stop; a video that is being decoded is given up."""
        self._reader.close()
        self._pool.shutdown(cancel_futures=True)

    def _prepare(
        self, listed: ListedItem, find_duplicate: Callable[[str], str | None]
    ) -> PreparedVideo | Outcome:
        started, item = time.perf_counter(), listed.item
        try:
            before = os.stat(item.uri)
            sha256 = self._reader.hash_file(item.uri)
            content = self._find_known(sha256, find_duplicate)
            is_known = content is not None
            if content is None:
                content = self._reader.embed(item.uri)
            after = os.stat(item.uri)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise ImageUnreadableError(
                    f"{item.uri}: the file changed while it was read; run again once it is written",
                    item=item.uri,
                )
            self._remember(sha256, content._replace(encode_seconds=0.0))
            encode_seconds = content.encode_seconds
            decode_seconds = time.perf_counter() - started - encode_seconds
            outcome = Outcome(
                item.uri,
                "reused" if is_known else "embedded",
                bytes=before.st_size if item.bytes is None else item.bytes,
                mtime=before.st_mtime_ns if item.mtime is None else item.mtime,
                decode_ms=1000 * decode_seconds,
                encode_ms=1000 * encode_seconds,
            )
            rows = list(_rows_of(listed, content, sha256, outcome))
        except Exception as err:  # noqa: BLE001  one item of many: it is counted and reported
            return make_failure(item, err, 1000 * (time.perf_counter() - started))
        return PreparedVideo(rows, content.num_damaged, decode_seconds, encode_seconds)

    def _find_known(
        self, sha256: str, find_duplicate: Callable[[str], str | None]
    ) -> VideoContent | None:
        """Return the segments of a video with this content, from this run or the index."""
        if (recent := self._recent.get(sha256)) is not None:
            return recent
        key = find_duplicate(sha256)
        found = self._index.by_ids([key]).get(key) if key is not None else None
        if found is None or not is_moment(found[0].uri, found[0].member):
            return None
        rows = self._index.moments(found[0].uri)
        digests = [row.sha256 for row, _ in rows]
        if digests != [segment_digest(sha256, number) for number in range(len(rows))]:
            return None  # that file has changed since
        segments = []
        for row, vector in rows:
            moment = row.moment
            if moment is None:
                return None
            segments.append(StoredSegment(moment.start, moment.end, moment.frame_time, vector))
        damaged = found[0].metadata.get(DAMAGED_PACKETS)
        num_damaged = damaged if isinstance(damaged, int) else 0
        return VideoContent(segments, found[0].width, found[0].height, num_damaged)

    def _remember(self, sha256: str, content: VideoContent) -> None:
        with self._lock:
            self._recent[sha256] = content
            while len(self._recent) > _MAX_RECENT:
                self._recent.popitem(last=False)


def _rows_of(
    listed: ListedItem, content: VideoContent, sha256: str, outcome: Outcome
) -> Iterator[CommittedItem]:
    item, taken = listed.item, set[str]()
    columns = read_video_columns(item.uri) if listed.reads_metadata else {}
    for number, segment in enumerate(content.segments):
        time_of_frame = segment.frame_time
        while (member := format_moment(time_of_frame)) in taken:
            time_of_frame += _MILLISECOND
        taken.add(member)
        times = {"start": segment.start, "end": segment.end, "frame_time": segment.frame_time}
        # No column for the many indexes without a damaged video.
        damaged = {DAMAGED_PACKETS: content.num_damaged} if content.num_damaged else {}
        row = Row(
            uri=item.uri,
            member=member,
            width=content.width,
            height=content.height,
            bytes=outcome.bytes,
            mtime=outcome.mtime,
            sha256=segment_digest(sha256, number),
            metadata={
                **item.metadata,
                **{name: round(one, 3) for name, one in times.items()},
                **damaged,
            },
        )
        yield CommittedItem(
            row,
            segment.vector,
            listed.is_new,
            outcome if number == 0 else None,
            file_columns=columns,
            video=item.uri,
        )
