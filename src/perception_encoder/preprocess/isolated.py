"""Decode in child processes what cannot be checked before it is decoded.

LibRaw and libjxl cannot be stopped, and a file may make them crash, run for hours or take all
memory. In a child process that costs the file alone. Children are kept for the next images.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any, Final, Literal, TypeAlias, cast

from PIL import Image

from perception_encoder.errors import (
    ImageDecodeError,
    ImageTooLargeError,
    ImageUnreadableError,
)
from perception_encoder.preprocess import isolated_child
from perception_encoder.preprocess.limits import check_size, max_seconds

IsolatedFormat: TypeAlias = Literal["raw", "jxl"]

_PROGRAM: Final = isolated_child.__file__
_EXTRAS: Final = {"raw": "a RAW file without a preview", "jxl": "JPEG XL"}
# A machine may be busy with other work. Where processor time has no limit, this ends the child.
_WALL_FACTOR: Final = 10
_MAX_IDLE: Final = 16
_IDLE: Final[list["_Child"]] = []


def decode_isolated(
    data: bytes, image_format: IsolatedFormat, *, max_pixels: int, item: str
) -> Image.Image:
    """Decode an image in a child process.

    Args:
        data: the file.
        image_format: "raw" develops the data of the sensor at half its size; "jxl" is JPEG XL.
        max_pixels: refuse more pixels than this, before decoding.
        item: names the image in errors.

    Returns:
        An upright image.

    Raises:
        ImageDecodeError: the data is damaged, or a package is missing.
        ImageTooLargeError: more than max_pixels, or more time than the limit for that.
        ImageUnreadableError: no process can be started.
    """
    child = _take(item)
    try:
        reply, content = child.ask(data, image_format, max_pixels)
    except BaseException as err:
        child.close()
        if isinstance(err, OSError | ValueError | EOFError):
            raise _ended(child, item) from err
        raise
    _put_back(child)
    if "too_large" in reply:
        check_size(tuple(reply["too_large"]), max_pixels=max_pixels, item=item)
    if "missing" in reply:
        raise ImageDecodeError(
            f"{item}: {_EXTRAS[image_format]} needs one more package: "
            f"pip install 'perception-encoder[{image_format}]'",
            item=item,
        )
    if "error" in reply:
        raise ImageDecodeError(
            f"{item}: the data is damaged or of a kind that cannot be decoded "
            f"({reply['error']}); fetch it again, or save it as PNG or JPEG",
            item=item,
        )
    size = (int(reply["size"][0]), int(reply["size"][1]))
    image = Image.frombytes(reply["mode"], size, content[: reply["num_bytes"]])
    if reply["num_more"]:
        image.info["icc_profile"] = content[reply["num_bytes"] :]
    return image


def _ended(child: "_Child", item: str) -> Exception:
    if child.is_over:
        return ImageTooLargeError(
            f"{item}: decoding takes more time than the limit for its size; save it again as an "
            "ordinary PNG or JPEG",
            item=item,
        )
    return ImageDecodeError(
        f"{item}: the decoder crashed; the data is damaged: fetch it again, or save it as PNG or "
        "JPEG",
        item=item,
    )


class _Child:
    """A child process and the process that started it."""

    def __init__(self) -> None:
        self._parent = os.getpid()
        # Isolated from the current folder: a downloaded folder may hold a `numpy.py`.
        self._process = subprocess.Popen(
            [sys.executable or "python", "-I", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.is_over = False
        """Whether the last image took more time than its limit."""
        self._write(json.dumps([path for path in sys.path if path]).encode() + b"\n")

    @property
    def is_usable(self) -> bool:
        """Whether it can be asked from this process, which may be a fork of its parent."""
        return self._parent == os.getpid() and self._process.poll() is None

    def ask(self, data: bytes, kind: str, max_pixels: int) -> tuple[dict[str, Any], bytes]:
        """Have it decode an image; return its reply.

        Raises:
            OSError, ValueError, EOFError: it ended.
        """
        request = {
            "kind": kind,
            "num_bytes": len(data),
            "max_pixels": max_pixels,
            "seconds": max_seconds(0),
            "seconds_per_pixel": max_seconds(1) - max_seconds(0),
        }
        timer = threading.Timer(_WALL_FACTOR * max_seconds(max_pixels), self._stop)
        timer.daemon = True
        timer.start()
        try:
            self._write(json.dumps(request).encode() + b"\n", data)
            stdout = cast("IO[bytes]", self._process.stdout)
            reply: dict[str, Any] = json.loads(stdout.readline())
            wanted = reply.get("num_bytes", 0) + reply.get("num_more", 0)
            content = stdout.read(wanted)
            if len(content) < wanted:
                raise EOFError("the reply ends early")
        finally:
            timer.cancel()
        return reply, content

    def close(self) -> None:
        """End it; in a forked process only forget it, as it is the parent's."""
        if self._parent != os.getpid():
            self._process.returncode = 0
            return
        self._process.kill()
        code = self._process.wait()
        self.is_over = self.is_over or code == -_CPU_SIGNAL
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _write(self, *parts: bytes) -> None:
        stdin = cast("IO[bytes]", self._process.stdin)
        for part in parts:
            stdin.write(part)
        stdin.flush()

    def _stop(self) -> None:
        self.is_over = True
        self._process.kill()


_CPU_SIGNAL: Final = 24  # SIGXCPU, which Windows does not have


def _take(item: str) -> _Child:
    while _IDLE:
        with suppress(IndexError):  # another thread was quicker
            child = _IDLE.pop()
            if child.is_usable:
                return child
            child.close()
    try:
        return _Child()
    except OSError as err:
        raise ImageUnreadableError(f"{item}: no decoder can be started: {err}", item=item) from err


def _put_back(child: _Child) -> None:
    if len(_IDLE) < _MAX_IDLE:
        _IDLE.append(child)
    else:
        child.close()


@atexit.register
def close_children() -> None:
    """End the child processes that wait for images."""
    while _IDLE:
        _IDLE.pop().close()
