"""`VideoDecoder`: frames of video files, decoded in a child process.

One child serves many files. It is started with the first one, and again after a file that crashed
it, which fails alone.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import (
    ImageEmptyError,
    ImageError,
    ImageNotFoundError,
    ImageUnreadableError,
    VideoDecodeError,
)
from perception_encoder.preprocess.child_process import ChildProcess
from perception_encoder.preprocess.files import open_regular_file
from perception_encoder.video.names import INSTALL, can_decode, split_fragment

_SILENT_SECONDS: Final = 60.0  # after which a child is ended; it reports every two seconds
_MAX_FRAME_BYTES: Final = 3 * 2**29  # a frame of the most pixels, stretched to square ones
_FRAME_SIDE: Final = 1080  # shorter side of a frame that is shown, pixels
_JPEG_QUALITY: Final = 90
_ERRORS: Final[dict[str, type[ImageError]]] = {
    "ImageNotFoundError": ImageNotFoundError,
    "ImageUnreadableError": ImageUnreadableError,
}
_PROGRAM: Final = "from perception_encoder.video.child import main; main()"


class VideoFrame(NamedTuple):
    """A frame as a player shows it.

    Attributes:
        time: seconds from the start of the video.
        pixels: (H, W, 3) uint8 RGB, upright, with square pixels.
    """

    time: float
    pixels: NDArray[np.uint8]


class SampledVideo:
    """Frames over a whole video, read while they are decoded; iterate once.

    Attributes:
        end: seconds at which the video ends; known after the last frame, as are the others.
        width: of the video as shown, pixels.
        height: of the video as shown, pixels.
        num_damaged: packets that could not be decoded.
        cuts: seconds at which scenes begin as far as the encoder saw it, ascending.
    """

    def __init__(self, replies: Generator[tuple[dict[str, Any], bytes]]) -> None:
        self._replies = replies
        self.end = 0.0
        self.width = self.height = self.num_damaged = 0
        self.cuts: list[float] = []

    def __iter__(self) -> Iterator[VideoFrame]:
        with closing(self._replies):
            for header, content in self._replies:
                if header["kind"] == "frame":
                    yield _frame_of(header, content)
                elif header["kind"] == "cuts":
                    self.cuts += map(float, header["times"])
                else:
                    self.end = float(header["end"])
                    self.width, self.height = int(header["width"]), int(header["height"])
                    self.num_damaged = int(header["num_damaged"])


class VideoDecoder:
    """Decodes videos in a child process. Threads may share it; they take turns.

    Args:
        silent_seconds: a child that reports nothing for so long is ended, and its file fails.
    """

    def __init__(self, *, silent_seconds: float = _SILENT_SECONDS) -> None:
        self._silent_seconds = silent_seconds
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None

    def sample(self, path: str | os.PathLike[str], *, min_side: int | None = None) -> SampledVideo:
        """Return frames over the whole video, in order.

        They are one to two seconds apart: at keyframes where there are any, else between them. In
        a video of an hour and more there are about 3,600, so they are further apart.

        Args:
            path: of the file.
            min_side: larger frames are shrunk to this shorter side.

        Raises:
            ImageNotFoundError, ImageUnreadableError: as for image files; while iterating, as are
                the others. Without PyAV the message has the command that installs it.
            ImageEmptyError: the file is empty.
            VideoDecodeError: there is no video in it, it is damaged, or it crashes the decoder.
        """
        return SampledVideo(self._ask(path, op="sample", min_side=min_side))

    def uniform(self, path: str | os.PathLike[str], num_frames: int) -> Iterator[VideoFrame]:
        """Yield frames that are evenly spaced by their number, in their full size.

        Raises:
            ValueError: `num_frames` is below 1.
            ImageError: as in `sample`.
        """
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        with closing(self._ask(path, op="uniform", num_frames=num_frames)) as replies:
            for header, content in replies:
                if header["kind"] == "frame":
                    yield _frame_of(header, content)

    def frame(
        self, path: str | os.PathLike[str], seconds: float, *, min_side: int | None = None
    ) -> VideoFrame:
        """Return the first frame that is not before a time, or else the last one.

        Raises:
            ImageError: as in `sample`.
        """
        ask = self._ask(path, op="frame", seconds=seconds, min_side=min_side)
        frames = [
            _frame_of(header, content) for header, content in ask if header["kind"] == "frame"
        ]
        return frames[0]

    def stop(self) -> None:
        """End the child now, from any thread; the video that is being decoded fails."""
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """End the child; another one is started when it is needed."""
        with self._lock:
            self._end_child()

    def _ask(
        self, path: str | os.PathLike[str], **request: Any
    ) -> Generator[tuple[dict[str, Any], bytes]]:
        """Send a request, and yield the replies; the last one has the kind "end"."""
        name = os.fsdecode(path)
        _check_file(name)
        with self._lock:
            child = self._usable_child()
            is_complete = False
            try:
                child.send({"path": os.path.abspath(name), "min_side": None, **request})
                while not is_complete:
                    header, content = self._receive(child)
                    if header["kind"] == "error":
                        is_complete = True
                        raise _error_of(header, name)
                    is_complete = header["kind"] == "end"
                    if header["kind"] != "alive":
                        yield header, content
            except (EOFError, OSError, ValueError, KeyError) as err:
                if isinstance(err, ImageError):
                    raise
                raise VideoDecodeError(f"{name}: {self._describe_end(child)}", item=name) from err
            finally:
                if not is_complete:
                    self._end_child()

    def _receive(self, child: ChildProcess) -> tuple[dict[str, Any], bytes]:
        """Return the next reply and its content.

        Raises:
            EOFError: the child has ended, or was ended because it was silent.
            ValueError, KeyError: the reply makes no sense.
        """
        with child.limit(self._silent_seconds):
            header = child.receive()
            if header["kind"] != "frame":
                return header, b""
            num_bytes = 3 * int(header["width"]) * int(header["height"])
            if not 0 < num_bytes <= _MAX_FRAME_BYTES:
                raise ValueError("a frame of a wrong size")
            return header, child.read(num_bytes)

    def _describe_end(self, child: ChildProcess) -> str:
        """Return why a child gave no answer, with what to do."""
        again = "the file is damaged or made to do this; convert it, or leave it out"
        if child.is_late:
            return f"the decoder did nothing for {self._silent_seconds:g} seconds; {again}"
        code = child.exit_code()
        if code is None:
            return f"the decoder gave a wrong answer; {again}"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the decoder crashed on this file ({how}); {again}"

    def _usable_child(self) -> ChildProcess:
        if self._child is not None and not self._child.is_usable:
            self._end_child()
        if self._child is None:
            self._child = _start()
            atexit.register(self._child.close)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            atexit.unregister(self._child.close)
            self._child.close()
            self._child = None


def _start() -> ChildProcess:
    paths = os.pathsep.join(path for path in sys.path if path)
    # -P: a module in the current folder must not stand in for PyAV.
    command = [sys.executable, "-P", "-c", _PROGRAM]
    return ChildProcess(command, env={**os.environ, "PYTHONPATH": paths})


def _check_file(name: str) -> None:
    if not can_decode():
        raise ImageUnreadableError(f"{name}: videos need one more package: {INSTALL}", item=name)
    file, num_bytes = open_regular_file(name, item=name, max_bytes=None)
    file.close()
    if not num_bytes:
        raise ImageEmptyError(f"{name}: zero bytes; save or fetch the video again", item=name)


def _error_of(header: dict[str, Any], name: str) -> ImageError:
    kind, message = str(header["error"]), str(header["message"])
    if kind in _ERRORS:
        return _ERRORS[kind](message, item=name)
    if kind == "memory":
        return VideoDecodeError(
            f"{name}: decoding needs more memory than a video is given; convert it to a smaller "
            "size",
            item=name,
        )
    return VideoDecodeError(
        f"{name}: the video cannot be decoded ({message}); fetch it again, or convert it to MP4",
        item=name,
    )


def _frame_of(header: dict[str, Any], content: bytes) -> VideoFrame:
    shape = (int(header["height"]), int(header["width"]), 3)
    return VideoFrame(float(header["time"]), np.frombuffer(content, np.uint8).reshape(shape))


_shared: Final = VideoDecoder()


def read_frame(path: str | os.PathLike[str], seconds: float) -> bytes:
    """Return the frame of a video at a time as a JPEG, at most 1080 pixels high if it is wide.

    Raises:
        ImageError: as `VideoDecoder.sample`.
    """
    from PIL import Image

    frame = _shared.frame(path, seconds, min_side=_FRAME_SIDE)
    encoded = io.BytesIO()
    Image.fromarray(frame.pixels).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


def read_frames(name: str, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield evenly spaced frames of a video, see `VideoDecoder.uniform`; or the one at a time.

    Args:
        name: path of the file, or the path and a time: `clip.mp4#t=12`.
        num_frames: of a path alone.
    """
    path, seconds = split_fragment(name)
    if seconds is not None:
        yield _shared.frame(path, seconds).pixels
        return
    for frame in _shared.uniform(path, num_frames):
        yield frame.pixels
