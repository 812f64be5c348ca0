"""Reads one video for a run: the hash of the file, and the segments of its embedded frames.

The frames are embedded as they come, so that a long video needs no more memory than a short one.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import VideoDecodeError
from perception_encoder.preprocess.files import open_regular_file
from perception_encoder.types import Embeddings
from perception_encoder.video import VideoDecoder, find_segments

_HASHED_AT_ONCE: Final = 2**20  # bytes
_DECODED_GAP: Final = 2  # times the model's square: how large frames leave the decoder


class StoredSegment(NamedTuple):
    """A segment as an index stores it: seconds, and a (E,) vector of unit length."""

    start: float
    end: float
    frame_time: float
    vector: NDArray[np.float32]


class VideoFrames(NamedTuple):
    """The embedded frames of a video.

    Attributes:
        times: (N,) seconds.
        vectors: (N, E) float32, unit length.
        end: seconds at which the video ends.
        cuts: seconds at which the encoder saw scenes begin, ascending.
    """

    times: NDArray[np.float64]
    vectors: Embeddings
    end: float
    cuts: Sequence[float]


Divide: TypeAlias = Callable[[str, VideoFrames], Sequence[StoredSegment]]
"""Returns the segments of the video at a path."""


class VideoContent(NamedTuple):
    """The segments of a video.

    Attributes:
        segments: in order.
        width: of the video as shown, pixels.
        height: of the video as shown, pixels.
        num_damaged: packets that could not be decoded.
        encode_seconds: time in the model.
    """

    segments: Sequence[StoredSegment]
    width: int | None
    height: int | None
    num_damaged: int
    encode_seconds: float = 0.0


class VideoReader(Protocol):
    """Reads the videos of a run, on this machine or on others. Threads share it."""

    num_at_once: int
    """Number of videos to read at once."""

    def hash_file(self, path: str) -> str:
        """Return the SHA-256 of a file.

        Raises:
            ImageNotFoundError, ImageUnreadableError: it cannot be read.
        """
        ...

    def embed(self, path: str) -> VideoContent:
        """Decode a video, and embed and divide it.

        Raises:
            ImageError: as `VideoDecoder.sample`.
        """
        ...

    def close(self) -> None:
        """Give up what is being read."""
        ...


def hash_file(path: str, check_stop: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a file of any size.

    Args:
        path: of the file.
        check_stop: called now and then; what it raises ends the reading.

    Raises:
        ImageNotFoundError, ImageUnreadableError: it cannot be read.
    """
    digest = hashlib.sha256()
    file, _ = open_regular_file(path, item=path, max_bytes=None)
    with file:
        while block := file.read(_HASHED_AT_ONCE):
            digest.update(block)
            check_stop()
    return digest.hexdigest()


class LocalVideoReader:
    """A `VideoReader` on this machine: one video at a time.

    Args:
        model: computes the vectors.
        batch_size: frames computed at once.
        divide: divides a video; by default `find_segments` does.
    """

    num_at_once = 1

    def __init__(
        self, model: EmbeddingModel, *, batch_size: int, divide: Divide | None = None
    ) -> None:
        self._model = model
        self._batch_size = batch_size
        self._divide = divide or _find_segments
        self._decoder = VideoDecoder()
        self._stop = threading.Event()

    def hash_file(self, path: str) -> str:
        """See `VideoReader.hash_file`."""
        return hash_file(path, self._check_stop)

    def embed(self, path: str) -> VideoContent:
        """See `VideoReader.embed`."""
        self._check_stop()
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
        frames = VideoFrames(np.array(times), np.concatenate(vectors), video.end, video.cuts)
        return VideoContent(
            self._divide(path, frames),
            video.width or None,
            video.height or None,
            video.num_damaged,
            seconds,
        )

    def close(self) -> None:
        """See `VideoReader.close`."""
        self._stop.set()
        self._decoder.stop()
        self._decoder.close()

    def _embed_batch(self, batch: list[NDArray[np.uint8]], vectors: list[Embeddings]) -> float:
        """Embed frames, add their vectors, empty the batch; return the seconds."""
        if not batch:
            return 0.0
        started = time.perf_counter()
        vectors.append(self._model.embed_pixels(np.stack(batch)))
        batch.clear()
        return time.perf_counter() - started

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise InterruptedError("the run was stopped")


def _find_segments(_path: str, frames: VideoFrames) -> list[StoredSegment]:
    return [
        StoredSegment(one.start, one.end, one.frame_time, one.vector)
        for one in find_segments(*frames)
    ]
