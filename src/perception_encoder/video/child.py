"""The process that decodes videos: it answers requests on stdin until stdin ends.

A request is a line of JSON. Each reply is a line of JSON, and `frame` is followed by the bytes of
its pixels. Decoders of damaged or hostile files may crash, loop or ask for all memory, so this
process limits itself, and the parent ends it when it is silent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import av
from av.error import FFmpegError

from perception_encoder.errors import ImageError
from perception_encoder.preprocess.files import open_regular_file
from perception_encoder.video.color import shown_size, to_upright_rgb
from perception_encoder.video.sampling import NoVideoError, OpenVideo

if TYPE_CHECKING:
    from av import VideoFrame

MAX_MEMORY_BYTES: Final = 4 * 2**30
MAX_CPU_SECONDS: Final = 7200  # of one request, over all threads
ALIVE_SECONDS: Final = 2.0  # between two signs of life, while packets are read
_CUTS_AT_ONCE: Final = 1000  # the parent limits the length of a line


def main() -> None:
    """Answer requests until stdin ends."""
    replies = open(os.dup(1), "wb")  # noqa: SIM115  open as long as the process
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # what libraries print must not come between replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    av.logging.set_level(None)
    _limit_resources()
    try:
        for line in sys.stdin.buffer:
            _allow_cpu_time()
            _answer(json.loads(line), replies)
    except BrokenPipeError:  # the parent has ended
        os._exit(0)


def _answer(request: dict[str, Any], replies: BinaryIO) -> None:
    try:
        _send_frames(request, replies)
    except ImageError as err:
        _reply(replies, kind="error", error=type(err).__name__, message=str(err))
    except BrokenPipeError:
        raise
    except (av.error.MemoryError, MemoryError):
        _reply(replies, kind="error", error="memory", message="")
    except (NoVideoError, FFmpegError, OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or str(err)  # FFmpeg's errors have it, too
        _reply(replies, kind="error", error="decode", message=reason)


def _send_frames(request: dict[str, Any], replies: BinaryIO) -> None:
    path, min_side = request["path"], request["min_side"]
    alive = time.monotonic()

    def on_packet() -> None:
        nonlocal alive
        if (now := time.monotonic()) - alive > ALIVE_SECONDS:
            alive = now
            _reply(replies, kind="alive")

    file, _ = open_regular_file(path, item=path, max_bytes=None)
    with file, OpenVideo(file, on_packet) as video:
        size = (0, 0)
        for seconds, frame in _frames(video, request):
            pixels = to_upright_rgb(frame, video.aspect, frame.rotation, min_side)
            size = shown_size(frame, video.aspect, frame.rotation)
            height, width = pixels.shape[:2]
            _reply(replies, pixels.data, kind="frame", time=seconds, width=width, height=height)
        cuts = video.cuts
        for first in range(0, len(cuts), _CUTS_AT_ONCE):
            part = cuts[first : first + _CUTS_AT_ONCE]
            _reply(replies, kind="cuts", times=[round(time, 6) for time in part])
        _reply(
            replies,
            kind="end",
            end=max(video.end, video.duration) if request["op"] != "sample" else video.end,
            width=size[0],
            height=size[1],
            num_damaged=video.num_damaged,
        )


def _frames(video: OpenVideo, request: dict[str, Any]) -> Iterator[tuple[float, VideoFrame]]:
    if request["op"] == "sample":
        return video.sample()
    if request["op"] == "uniform":
        return video.uniform(request["num_frames"])
    return iter([video.frame_at(request["seconds"])])


def _reply(replies: BinaryIO, pixels: memoryview | None = None, **header: Any) -> None:
    replies.write(json.dumps(header).encode() + b"\n")
    if pixels is not None:
        replies.write(pixels)
    replies.flush()


def _limit_resources() -> None:
    """Limit memory and files; nothing is ever written. Windows has no such limits."""
    if sys.platform == "win32":
        return
    import resource

    for what, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, most = resource.getrlimit(what)
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
        try:
            resource.setrlimit(what, (limit, most))
        except (ValueError, OSError):  # macOS refuses some
            continue


def _allow_cpu_time() -> None:
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + MAX_CPU_SECONDS
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


if __name__ == "__main__":
    main()
