"""Open image files: regular files of a bounded size only.

Every path that a user, a list or an index names is opened here. A pipe, a device or a socket raises
an error at once, because opening or reading one may never end.
"""

import os
import re
import stat
from typing import BinaryIO, Final

from perception_encoder.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
)

MAX_FILE_BYTES: Final = 2**30
"""The largest image file that is read: `DEFAULT_MAX_PIXELS` in 16-bit RGB, uncompressed, is this
large. Files are read whole, so the limit also bounds memory."""

RAW_SUFFIXES: Final = frozenset(
    (
        ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl",
        ".srw",
    )
)  # fmt: skip
"""Suffixes of cameras' RAW files, in lower case."""

IMAGE_SUFFIXES: Final = frozenset(
    (
        ".avif", ".bmp", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
        ".jpg", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
        *RAW_SUFFIXES,
    )
)  # fmt: skip
"""Suffixes of image files, in lower case. Some need an extra; without it, each such file is counted
and reported, with the command that installs it."""

_URL: Final = re.compile(r"(?:[a-z][a-z0-9+.-]+:/|data:)", re.IGNORECASE)
# O_NONBLOCK: opening a pipe does not wait for a writer. O_BINARY exists on Windows only, where the
# others do not.
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe and not a regular file"),
    (stat.S_ISSOCK, "a socket and not a regular file"),
    (stat.S_ISCHR, "a device and not a regular file"),
    (stat.S_ISBLK, "a device and not a regular file"),
)


def open_regular_file(
    path: str | os.PathLike[str], *, item: str, max_bytes: int | None = MAX_FILE_BYTES
) -> tuple[BinaryIO, int]:
    """Open a file for reading, if it is a regular file of at most `max_bytes`.

    Args:
        path: of the file; links are followed.
        item: names it in errors.
        max_bytes: a larger file is refused before a byte is read; None for no limit.

    Returns:
        The open file, which the caller closes, and its size in bytes.

    Raises:
        ImageNotFoundError: no file there.
        ImageTooLargeError: more than max_bytes.
        ImageUnreadableError: a folder, pipe, device, socket or URL, or no permission.
    """
    descriptor = -1
    try:
        # Asked first, as merely opening some devices has effects; asked again of what was opened,
        # as another file may have taken its place.
        _check_kind(os.stat(path), item)
        descriptor = os.open(path, _FLAGS)
        status = os.fstat(descriptor)
        _check_kind(status, item)
        _check_bytes(status.st_size, max_bytes, item)
        if hasattr(os, "set_blocking"):  # reads of a file on tape or a network may well wait
            os.set_blocking(descriptor, True)
        return open(descriptor, "rb"), status.st_size
    except BaseException as err:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(err, ImageError) or not isinstance(err, OSError | ValueError):
            raise
        raise _cannot_open(path, err, item) from err


def read_image_file(
    path: str | os.PathLike[str], *, item: str, max_bytes: int = MAX_FILE_BYTES
) -> bytes:
    """Read a whole image file.

    Args:
        path: as for `open_regular_file`.
        item: as for `open_regular_file`.
        max_bytes: as for `open_regular_file`; also where the file grows while it is read.

    Raises:
        ImageNotFoundError: no file there.
        ImageTooLargeError: more than max_bytes.
        ImageTruncatedError: the file became shorter while it was read.
        ImageUnreadableError: as for `open_regular_file`, or reading failed.
    """
    file, num_bytes = open_regular_file(path, item=item, max_bytes=max_bytes)
    with file:
        try:
            # Not one byte more than the file had: a file that is being written has no end.
            data = file.read(num_bytes)
        except OSError as err:
            raise ImageUnreadableError(f"{item}: reading failed: {err}", item=item) from err
    if len(data) < num_bytes:
        raise ImageTruncatedError(
            f"{item}: the file became shorter while it was read ({len(data):,} of "
            f"{num_bytes:,} bytes); try again once it is written",
            item=item,
        )
    return data


def _check_kind(status: os.stat_result, item: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kinds = [kind for is_kind, kind in _KINDS if is_kind(status.st_mode)]
    kind = kinds[0] if kinds else "not a regular file"
    raise ImageUnreadableError(
        f"{item}: this is {kind}; pass the path of one image file", item=item
    )


def _check_bytes(num_bytes: int, max_bytes: int | None, item: str) -> None:
    if max_bytes is not None and num_bytes > max_bytes:
        raise ImageTooLargeError(
            f"{item}: the file has {num_bytes:,} bytes, the limit for an image is {max_bytes:,}; "
            "scale the image down or compress it",
            item=item,
        )


def _cannot_open(path: str | os.PathLike[str], err: Exception, item: str) -> ImageError:
    if _URL.match(os.fsdecode(path)):
        return ImageUnreadableError(
            f"{item}: URLs are not fetched here; download it and pass the file or its bytes",
            item=item,
        )
    if isinstance(err, FileNotFoundError | NotADirectoryError | ValueError):
        return ImageNotFoundError(f"{item}: no such file; check the path", item=item)
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return ImageUnreadableError(f"{item}: cannot be opened: {reason}", item=item)
