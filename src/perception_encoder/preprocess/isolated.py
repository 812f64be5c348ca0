"""Decode in child processes what cannot be checked before it is decoded.

LibRaw and libjxl cannot be stopped, and a file may make them crash, run for hours or take all
memory. In a child process that costs the file alone. Children are kept for the next images.
"""

import atexit
import sys
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

from PIL import Image

from perception_encoder.errors import (
    ImageDecodeError,
    ImageTooLargeError,
    ImageUnreadableError,
)
from perception_encoder.preprocess import isolated_child
from perception_encoder.preprocess.child_process import ChildProcess
from perception_encoder.preprocess.limits import check_size, max_seconds

IsolatedFormat: TypeAlias = Literal["raw", "jxl"]

_PROGRAM: Final = isolated_child.__file__
_EXTRAS: Final = {"raw": "a RAW file without a preview", "jxl": "JPEG XL"}
# A machine may be busy with other work. Where processor time has no limit, this ends the child.
_WALL_FACTOR: Final = 10
_MAX_IDLE: Final = 16
_CPU_SIGNAL: Final = 24  # SIGXCPU, which Windows does not have
_IDLE: Final[list[ChildProcess]] = []


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
        reply, content = _ask(child, data, image_format, max_pixels)
    except BaseException as err:
        child.kill()
        code = child.exit_code()
        child.close()
        if isinstance(err, OSError | ValueError | EOFError):
            is_late = child.is_late or code == -_CPU_SIGNAL
            raise _describe_end(item, is_late=is_late) from err
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


def _describe_end(item: str, *, is_late: bool) -> Exception:
    if is_late:
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


def _start() -> ChildProcess:
    # Isolated from the current folder: a downloaded folder may hold a `numpy.py`.
    child = ChildProcess([sys.executable or "python", "-I", _PROGRAM])
    child.send([path for path in sys.path if path])
    return child


def _ask(
    child: ChildProcess, data: bytes, kind: IsolatedFormat, max_pixels: int
) -> tuple[dict[str, Any], bytes]:
    """Have a child decode an image; return its reply.

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
    with child.limit(_WALL_FACTOR * max_seconds(max_pixels)):
        child.send(request, data)
        reply = child.receive()
        return reply, child.read(reply.get("num_bytes", 0) + reply.get("num_more", 0))


def _take(item: str) -> ChildProcess:
    while _IDLE:
        with suppress(IndexError):  # another thread was quicker
            child = _IDLE.pop()
            if child.is_usable:
                return child
            child.close()
    try:
        return _start()
    except OSError as err:
        raise ImageUnreadableError(f"{item}: no decoder can be started: {err}", item=item) from err


def _put_back(child: ChildProcess) -> None:
    if len(_IDLE) < _MAX_IDLE:
        _IDLE.append(child)
    else:
        child.close()


@atexit.register
def close_children() -> None:
    """End the child processes that wait for images."""
    while _IDLE:
        _IDLE.pop().close()
