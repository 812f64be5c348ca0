"""Chooses and decodes frames of a video with PyAV. Used in the child process only.

Frames for an index are chosen while the packets are read once, from the start to the end:
keyframes where there are any, as they are cheap and encoders put them where scenes begin, and
frames between them only where keyframes are rare.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO, Final, Self, TypeAlias

import av
from av.error import FFmpegError
from av.stream import Discard, Disposition

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.video.stream import VideoStream

STEP_SECONDS: Final = 1.0
"""Keyframes are at least this far apart. Where they are rare, frames between them are decoded every
two steps."""

MAX_FRAMES: Final = 3600
"""Frames of a file, about: in longer files (from an hour on) the step grows."""

MAX_CUTS: Final = 4 * MAX_FRAMES
"""Cuts that are reported of a file."""

MAX_PIXELS: Final = 2**26  # of a frame; 8K has half as many
_MAX_DECODED_PIXELS: Final = 2e11
"""Of frames between keyframes, in all: an hour of 1080p. Then keyframes have to do."""

_MOST_FRAMES: Final = 4 * MAX_FRAMES  # whatever the file says of its times
_MAX_PENDING_BYTES: Final = 2**28  # of packets that wait for their keyframe's successor
_EARLY: Final = 1.75  # steps; non-reference frames are skipped, so a frame a little earlier will do
_MOST_THREADS: Final = 4
_MAX_KEYFRAMES: Final = 2**18  # whose times are kept: all of 72 hours with one a second
_REGULAR: Final = 0.95  # of the usual distance: keyframes that come sooner begin a scene
_CLOSE: Final = 0.25  # steps; a keyframe soon after a frame between keyframes may begin a scene
_NEAR: Final = 0.0006  # seconds; members hold milliseconds
_SEEK_BACK: Final = (0.0, 5.0, 30.0, math.inf)
"""Seconds. Files without an index are sought by guesses, which may miss the keyframe."""

_DEMUXERS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv"
"""None of them opens other files, as playlists do."""


AnyPacket: TypeAlias = "Packet[VideoStream]"
TimedFrame: TypeAlias = "tuple[float, VideoFrame]"
"""A frame, and its time in seconds."""


class NoVideoError(Exception):
    """There is nothing to decode; the message says why."""


class OpenVideo:
    """A video that is open for decoding.

    Args:
        file: the file, which the caller closes.
        on_packet: called for each packet that is read, to report progress.

    Raises:
        NoVideoError: there is no video in it.
        FFmpegError: it cannot be read.
    """

    def __init__(self, file: BinaryIO, on_packet: Callable[[], None] = lambda: None) -> None:
        self._on_packet = on_packet
        self._container = av.open(
            file,
            "r",
            buffer_size=2**18,
            metadata_errors="replace",
            container_options={"format_whitelist": _DEMUXERS},
        )
        try:
            self._stream = self._choose_stream()
            self._set_up()
        except BaseException:
            self._container.close()
            raise
        self.end = 0.0
        """Seconds at which the last packet that was read ends."""
        self.num_damaged = 0
        """Packets that could not be decoded."""
        self._keyframes = array("d")
        self._guessed = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def aspect(self) -> Fraction | None:
        """Width of a pixel by its height."""
        return self._stream.sample_aspect_ratio

    @property
    def duration(self) -> float:
        """Seconds, as the file says; 0 if it does not."""
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            return max(0.0, float(stream.duration * stream.time_base))
        return max(0.0, (container.duration or 0) / av.time_base)

    @property
    def cuts(self) -> list[float]:
        """Seconds at which scenes begin, as far as the encoder saw it; known after `sample`."""
        return find_cuts(self._keyframes)

    def sample(self) -> Iterator[TimedFrame]:
        """Yield frames over the whole video with their times in seconds.

        A damaged part is left out.

        Raises:
            FFmpegError: nothing can be read.
        """
        self._stream.codec_context.skip_frame = "NONREF"
        chooser = _Chooser(max(STEP_SECONDS, self.duration / MAX_FRAMES), self._frame_pixels())
        wanted = deque[float]()
        for packet in self._packets():
            if packet is None:
                fed: list[AnyPacket | None] = [None]
            else:
                shown = self._time_of(packet)
                if packet.is_keyframe and len(self._keyframes) < _MAX_KEYFRAMES:
                    self._keyframes.append(shown)
                fed, time = chooser.choose(packet, shown)
                wanted += [] if time is None else [time]
            for one in fed:
                for frame in self._decode(one):
                    time = self._time_of(frame)
                    if wanted and time >= wanted[0] - _NEAR:
                        while wanted and time >= wanted[0] - _NEAR:
                            wanted.popleft()
                        yield time, frame
            if chooser.is_full:
                return

    def uniform(self, num_frames: int) -> Iterator[TimedFrame]:
        """Yield frames that are evenly spaced by their number, the first and the last included.

        Source: perception_models apps/pe/clip_benchmark/datasets/video_retrieval_dataset.py
        `_load_video`: frame i of n is number int(i * (total - 1) / (n - 1)), and of one frame the
        middle. A video of fewer frames gives some of them twice.
        """
        stamps, keys = array("q"), array("q")
        for packet in self._packets():
            stamp = None if packet is None else _stamp_of(packet)
            if packet is None or stamp is None or packet.is_discard:
                continue
            stamps.append(stamp)
            if packet.is_keyframe:
                keys.append(stamp)
        if not stamps:
            raise NoVideoError("there are no frames in it")
        ordered, starts = sorted(stamps), sorted(keys)
        last = len(ordered) - 1
        places = (
            [len(ordered) // 2]
            if num_frames == 1
            else [int(number * last / (num_frames - 1)) for number in range(num_frames)]
        )
        yield from self._frames_at([ordered[place] for place in places], starts)

    def frame_at(self, seconds: float) -> TimedFrame:
        """Return the first frame that is not before a time, or else the last one.

        Raises:
            NoVideoError: no frame can be decoded.
        """
        found: TimedFrame | None = None
        for found in self._decoded_from(seconds):
            if found[0] >= seconds - _NEAR:
                break
        if found is None:
            raise NoVideoError("no frame can be decoded there")
        return found

    def _frames_at(self, stamps: list[int], starts: list[int]) -> Iterator[TimedFrame]:
        """Yield the frames with these timestamps, which ascend; decoding begins at keyframes."""
        base = self._stream.time_base or Fraction(1)
        frames: Iterator[TimedFrame] = iter(())
        current: TimedFrame | None = None
        position = -math.inf
        for stamp in stamps:
            key = starts[place - 1] if (place := bisect_right(starts, stamp)) else stamp
            seconds = float(stamp * base) - self._start
            if current is None or key > position:
                frames, current = self._decoded_from(seconds), None
            while current is None or current[0] < seconds - _NEAR:
                following = next(frames, None)
                if following is None:
                    break
                current = following
            if current is None:
                raise NoVideoError("no frame can be decoded")
            position = stamp
            yield current

    def _decoded_from(self, seconds: float) -> Iterator[TimedFrame]:
        """Yield the frames from a keyframe that is not after a time, or from the start."""
        for back in _SEEK_BACK:
            if not self._seek(max(0.0, seconds - back)):
                continue
            frames = self._decoded()
            first = next(frames, None)
            if first is not None and (first[0] <= seconds + _NEAR or back == math.inf):
                yield first
                yield from frames
                return

    def _decoded(self) -> Iterator[TimedFrame]:
        for packet in self._packets():
            for frame in self._decode(packet):
                yield self._time_of(frame), frame

    def _decode(self, packet: AnyPacket | None) -> list[VideoFrame]:
        """Decode a packet, or what is left in the decoder for None."""
        try:
            return self._stream.codec_context.decode(packet)
        except (av.error.MemoryError, MemoryError):
            raise
        except FFmpegError:
            self.num_damaged += 1
            return []

    def _packets(self) -> Iterator[AnyPacket | None]:
        """Yield the packets of the video, and None at the end."""
        packets = self._container.demux(self._stream)
        while True:
            self._on_packet()
            try:
                packet = next(packets, None)
            except (av.error.MemoryError, MemoryError):
                raise
            except FFmpegError:  # the rest cannot be read
                self.num_damaged += 1
                packet = None
            if packet is None or (packet.dts is None and packet.size == 0):
                yield None
                return
            if _stamp_of(packet) is not None:
                length = float((packet.duration or 0) * packet.time_base)
                self.end = max(self.end, self._time_of(packet) + length)
            yield packet

    def _time_of(self, one: AnyPacket | VideoFrame) -> float:
        stamp, base = _stamp_of(one), one.time_base or self._stream.time_base
        if stamp is None or base is None:
            return next(self._guessed) / float(self._stream.guessed_rate or 25)
        return float(stamp * base) - self._start

    def _seek(self, seconds: float) -> bool:
        base = self._stream.time_base
        if base is None:
            return False
        stamp = min(0.0, self._start) if seconds <= 0 else seconds + self._start
        try:
            self._container.seek(round(stamp / float(base)), stream=self._stream)
        except FFmpegError:
            return False
        return True

    def _choose_stream(self) -> VideoStream:
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of a record
        ]
        if not streams:
            raise NoVideoError("there is no video in it, only sound or data")
        known = [stream for stream in streams if stream.codec_context is not None]
        if not known:
            raise NoVideoError("its codec is not known to this version of PyAV")
        return max(known, key=lambda stream: (stream.width or 0) * (stream.height or 0))

    def _set_up(self) -> None:
        stream = self._stream
        for other in self._container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        context = stream.codec_context
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_type = "AUTO"
        context.thread_count = min(_MOST_THREADS, os.cpu_count() or 1)
        start = self._container.start_time
        self._start = (start or 0) / av.time_base

    def _frame_pixels(self) -> int:
        return max(1, (self._stream.width or 0) * (self._stream.height or 0))


class _Chooser:
    """Decides packet by packet what is decoded, see `OpenVideo.sample`."""

    def __init__(self, step: float, frame_pixels: int) -> None:
        self._step = step
        self._frame_pixels = frame_pixels
        self._left = _MAX_DECODED_PIXELS
        self._last: float | None = None  # time of the last frame that was chosen
        self._last_key = -math.inf  # and of the last keyframe
        self._pending: list[AnyPacket | None] = []  # since the keyframe, not decoded yet
        self._pending_bytes = 0
        self._is_broken = False  # packets are missing: decoding goes on at the next keyframe
        self._num_chosen = 0

    @property
    def is_full(self) -> bool:
        """Whether there are enough frames, whatever follows."""
        return self._num_chosen >= _MOST_FRAMES

    def choose(self, packet: AnyPacket, time: float) -> tuple[list[AnyPacket | None], float | None]:
        """Return the packets to decode now, and the time of a frame that is wanted of them."""
        last = self._last
        if last is not None and time < last - 10 * self._step:  # the times begin again
            last, self._last_key = None, -math.inf
        if packet.is_keyframe or self._last is None:
            self._pending, self._pending_bytes, self._is_broken = [], 0, False
            if last is None or self._takes_keyframe(time - last, time):
                self._last_key = time
                return [packet], self._chosen(time, time)
        if self._is_broken:
            return [], None
        self._pending.append(packet)
        self._pending_bytes += packet.size
        is_due = last is not None and time - last >= 2 * self._step - _NEAR
        if not is_due and self._pending_bytes < _MAX_PENDING_BYTES:
            return [], None
        fed, self._pending, self._pending_bytes = self._pending, [], 0
        self._left -= len(fed) * self._frame_pixels
        if self._left < 0:
            self._is_broken = True
            return [], None
        if not is_due or last is None:
            return fed, None
        return fed, self._chosen(time, last + _EARLY * self._step)

    def _takes_keyframe(self, since: float, time: float) -> bool:
        """Whether a keyframe is far enough from the last one, and from the last frame."""
        return since >= _CLOSE * self._step and time - self._last_key >= self._step - _NEAR

    def _chosen(self, time: float, wanted: float) -> float:
        self._last = time
        self._num_chosen += 1
        if self._num_chosen % MAX_FRAMES == 0:  # the duration was missing, or wrong
            self._step *= 2
        return wanted


def find_cuts(keyframes: Sequence[float]) -> list[float]:
    """Return the keyframes that come sooner than usual, as encoders put them where scenes begin.

    The usual distance is the median where most distances are near it, as of phones, which put a
    keyframe a second whatever they show; else the longest. If it comes once only, there is none.

    Args:
        keyframes: seconds of all keyframes.

    Returns:
        Seconds, ascending, at most `MAX_CUTS`.
    """
    distances = [after - before for before, after in itertools.pairwise(keyframes)]
    if not distances:
        return []

    def count_near(distance: float) -> int:
        return sum(_REGULAR * distance <= one <= distance / _REGULAR for one in distances)

    usual = statistics.median(distances)
    if 2 * count_near(usual) <= len(distances):
        usual = max(distances)
    if count_near(usual) < 2:
        usual = math.inf
    cuts = [
        time
        for time, distance in zip(keyframes[1:], distances, strict=True)
        if 0 < distance < _REGULAR * usual
    ]
    return sorted(cuts)[:MAX_CUTS]


def _stamp_of(one: AnyPacket | VideoFrame) -> int | None:
    return one.pts if one.pts is not None else one.dts
