"""Reads files on this machine, and says in our errors why it could not."""

import os
import stat
from functools import partial
from typing import BinaryIO

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageTruncatedError,
    ImageUnreadableError,
)
from perception_encoder.pipeline.sources.item import NOT_UNICODE, Item, broken, is_unicode


def file_item(path: str) -> Item:
    """Return the item of a file, with its size and time where it has any.

    Args:
        path: absolute.
    """
    if not is_unicode(path):
        return broken(path, NOT_UNICODE)
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # `read` meets it again and says which
        return Item(path, partial(read_file, path))
    return Item(path, partial(read_file, path), bytes=status.st_size, mtime=status.st_mtime_ns)


def open_file(path: str) -> BinaryIO:
    """Open a file for reading.

    Raises:
        ImageNotFoundError: no file there.
        ImageUnreadableError: a folder, a device, or no permission.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return open(path, "rb")
    except (OSError, ValueError) as err:
        raise _unreadable(path, path, err) from err
    # Not opened, as a pipe would wait for a writer.
    kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise ImageUnreadableError(f"{path}: this is {kind}; name one file", item=path)


def read_file(path: str) -> bytes:
    """Read a whole file.

    Raises:
        ImageNotFoundError: no file there.
        ImageUnreadableError: a folder, a device, no permission, or reading failed.
    """
    with open_file(path) as file:
        try:
            return file.read()
        except OSError as err:
            raise _unreadable(path, path, err) from err


def read_range(path: str, offset: int, num_bytes: int, *, item: str) -> bytes:
    """Read a part of a file.

    Args:
        path: the file.
        offset: where the part begins.
        num_bytes: its size.
        item: names it in errors.

    Raises:
        ImageNotFoundError: no file there.
        ImageTruncatedError: the file ends inside the part.
        ImageUnreadableError: reading failed.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = _read_at(file.fileno(), offset, num_bytes)
    except (OSError, ValueError) as err:
        raise _unreadable(path, item, err) from err
    if len(data) < num_bytes:
        raise ImageTruncatedError(
            f"{item}: the file ends {num_bytes - len(data)} bytes before this picture does; "
            "fetch it again",
            item=item,
        )
    return data


def _read_at(descriptor: int, offset: int, num_bytes: int) -> bytes:
    parts = []
    while num_bytes > 0 and (part := os.pread(descriptor, num_bytes, offset)):
        parts.append(part)  # one read brings 2 GiB at most
        offset += len(part)
        num_bytes -= len(part)
    return b"".join(parts)


def _unreadable(path: str, item: str, err: Exception) -> ImageNotFoundError | ImageUnreadableError:
    if isinstance(err, FileNotFoundError | NotADirectoryError | ValueError):
        return ImageNotFoundError(f"{item}: there is no file {path}; check the path", item=item)
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return ImageUnreadableError(f"{item}: cannot be read: {reason}", item=item)
