"""Prepares video files for a run: hash, sample, embed, and divide into segments.

One video is prepared at a time, on a thread of its own, while images go on beside it. The frames
are embedded as they come, so that a long video needs no more memory than a short one. A copy of an
indexed video takes its segments from the index.
"""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import ImageUnreadableError, VideoDecodeError
from perception_encoder.index import Index, Outcome, Row
from perception_encoder.indexing.commit import CommittedItem
from perception_encoder.indexing.photo_metadata import read_video_columns
from perception_encoder.indexing.prepare import ListedItem, make_failure
from perception_encoder.preprocess.files import open_regular_file
from perception_encoder.sources import Item
from perception_encoder.types import Embeddings
from perception_encoder.video import VideoDecoder, find_segments
from perception_encoder.video.names import format_moment, is_moment, is_video

_HASHED_AT_ONCE: Final = 2**20  # bytes
_DECODED_GAP: Final = 2  # times the model's square: how large frames leave the decoder
_MAX_RECENT: Final = 32  # videos whose segments are remembered, for copies in the same folder
_MILLISECOND: Final = 0.001


@dataclass(frozen=True, slots=True)
class PreparedVideo:
    """A video whose segments are embedded.

    Attributes:
        rows: to commit together.
        decode_seconds: time for reading, decoding and resizing.
        encode_seconds: time in the model.
    """

    rows: Sequence[CommittedItem]
    decode_seconds: float
    encode_seconds: float


class _Segment(NamedTuple):
    """A segment to store."""

    start: float
    end: float
    frame_time: float
    vector: NDArray[np.float32]


class _Content(NamedTuple):
    """The segments of a video, and its size as shown."""

    segments: Sequence[_Segment]
    width: int | None
    height: int | None


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
        model: computes the vectors.
        index: has the segments of contents that are known.
        batch_size: frames computed at once.
    """

    def __init__(self, model: EmbeddingModel, index: Index, *, batch_size: int) -> None:
        self._model = model
        self._index = index
        self._batch_size = batch_size
        self._decoder = VideoDecoder()
        self._pool = ThreadPoolExecutor(1, "video")
        self._stop = threading.Event()
        self._recent: OrderedDict[str, _Content] = OrderedDict()

    def submit(
        self, listed: ListedItem, find_duplicate: Callable[[str], str | None]
    ) -> Future[PreparedVideo | Outcome]:
        """Start to prepare a video; arguments as for `Preparation.submit`."""
        return self._pool.submit(self._prepare, listed, find_duplicate)

    def close(self) -> None:
        """Stop; a video that is being decoded is given up."""
        self._stop.set()
        self._decoder.stop()
        self._pool.shutdown(cancel_futures=True)
        self._decoder.close()

    def _prepare(
        self, listed: ListedItem, find_duplicate: Callable[[str], str | None]
    ) -> PreparedVideo | Outcome:
        started, item = time.perf_counter(), listed.item
        encode_seconds = 0.0
        try:
            before = os.stat(item.uri)
            sha256 = self._hash_file(item.uri)
            content = self._find_known(sha256, find_duplicate)
            is_known = content is not None
            if content is None:
                content, encode_seconds = self._embed(item.uri)
            after = os.stat(item.uri)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise ImageUnreadableError(
                    f"{item.uri}: the file changed while it was read; run again once it is written",
                    item=item.uri,
                )
            self._remember(sha256, content)
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
        return PreparedVideo(rows, decode_seconds, encode_seconds)

    def _hash_file(self, path: str) -> str:
        digest = hashlib.sha256()
        file, _ = open_regular_file(path, item=path, max_bytes=None)
        with file:
            while block := file.read(_HASHED_AT_ONCE):
                digest.update(block)
                self._check_stop()
        return digest.hexdigest()

    def _find_known(
        self, sha256: str, find_duplicate: Callable[[str], str | None]
    ) -> _Content | None:
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
            segments.append(_Segment(moment.start, moment.end, moment.frame_time, vector))
        return _Content(segments, found[0].width, found[0].height)

    def _embed(self, path: str) -> tuple[_Content, float]:
        """Return the segments of a video, and the seconds in the model."""
        processor = self._model.processor
        video = self._decoder.sample(path, min_side=_DECODED_GAP * processor.image_size)
        times, vectors, batch = list[float](), list[Embeddings](), list[NDArray[np.uint8]]()
        seconds = 0.0
        for frame in video:
            self._check_stop()
            times.append(frame.time)
            batch.append(processor(frame.pixels, input_color_format="rgb", item=path))
            if len(batch) == self._batch_size:
                seconds += self._embed_batch(batch, vectors)
        seconds += self._embed_batch(batch, vectors)
        if not times:
            raise VideoDecodeError(
                f"{path}: no frame of the video can be decoded; fetch it again, or convert it",
                item=path,
            )
        found = find_segments(np.array(times), np.concatenate(vectors), video.end)
        segments = [_Segment(one.start, one.end, one.frame_time, one.vector) for one in found]
        return _Content(segments, video.width or None, video.height or None), seconds

    def _embed_batch(self, batch: list[NDArray[np.uint8]], vectors: list[Embeddings]) -> float:
        """Embed frames, add their vectors, empty the batch; return the seconds."""
        if not batch:
            return 0.0
        started = time.perf_counter()
        vectors.append(self._model.embed_pixels(np.stack(batch)))
        batch.clear()
        return time.perf_counter() - started

    def _remember(self, sha256: str, content: _Content) -> None:
        self._recent[sha256] = content
        while len(self._recent) > _MAX_RECENT:
            self._recent.popitem(last=False)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise InterruptedError("the run was stopped")


def _rows_of(
    listed: ListedItem, content: _Content, sha256: str, outcome: Outcome
) -> Iterator[CommittedItem]:
    item, taken = listed.item, set[str]()
    columns = read_video_columns(item.uri) if listed.reads_metadata else {}
    for number, segment in enumerate(content.segments):
        time_of_frame = segment.frame_time
        while (member := format_moment(time_of_frame)) in taken:
            time_of_frame += _MILLISECOND
        taken.add(member)
        times = {"start": segment.start, "end": segment.end, "frame_time": segment.frame_time}
        row = Row(
            uri=item.uri,
            member=member,
            width=content.width,
            height=content.height,
            bytes=outcome.bytes,
            mtime=outcome.mtime,
            sha256=segment_digest(sha256, number),
            metadata={**item.metadata, **{name: round(one, 3) for name, one in times.items()}},
        )
        yield CommittedItem(
            row,
            segment.vector,
            listed.is_new,
            outcome if number == 0 else None,
            file_columns=columns,
            video=item.uri,
        )
