"""Reads the bytes at a path or URL, on this machine or on a network."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import IO, BinaryIO, Final, NamedTuple

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
)
from perception_encoder.preprocess.files import MAX_FILE_BYTES, open_regular_file, read_image_file
from perception_encoder.sources.item import (
    Item,
    Sidecar,
    SourceOptions,
    find_name_error,
    is_web,
    make_absolute,
    make_broken_item,
    scheme_of,
)
from perception_encoder.sources.network import Remote, RemoteEntry, Web
from perception_encoder.video.names import is_video

_REMOTE_VIDEO: Final = "videos are read from this machine only; download it, and index the file"


@dataclass(frozen=True)
class StoredImage:
    """An encoded image in an open file, to be read in parts. The caller closes the file.

    Attributes:
        file: the file.
        offset: where the image begins in it.
        num_bytes: of the image.
        item: names it in errors.
    """

    file: BinaryIO
    offset: int
    num_bytes: int
    item: str

    def read(self, start: int, num_bytes: int) -> bytes:
        """Read a part of the image from `start`; only the last part may be shorter.

        Raises:
            ImageTruncatedError: the file has become shorter.
            ImageUnreadableError: reading failed.
        """
        wanted = min(num_bytes, self.num_bytes - start)
        try:
            data = _read_at(self.file.fileno(), self.offset + start, wanted)
        except (OSError, ValueError) as err:
            raise _unreadable(self.item, err) from err
        if len(data) < wanted:
            raise ImageTruncatedError(f"{self.item}: the file has become shorter", item=self.item)
        return data


def open_local_image(path: str, *, item: str, part: tuple[int, int] | None = None) -> StoredImage:
    """Open an image to read it in parts.

    Args:
        path: of its file.
        item: names it in errors.
        part: where the image begins in the file, and its size; None for all of it.

    Raises:
        ImageNotFoundError, ImageTooLargeError, ImageUnreadableError: as `read_range`.
    """
    if part is not None:
        check_size(part[1], item=item)
    with _naming(path, item):
        limit = MAX_FILE_BYTES if part is None else None
        file, num_bytes = open_regular_file(path, item=item, max_bytes=limit)
    return StoredImage(file, *(part or (0, num_bytes)), item)


def make_file_item(path: str) -> Item:
    """Return the item of a file, with its size and time if it exists.

    Args:
        path: absolute.
    """
    if (error := find_name_error(path)) is not None:
        return make_broken_item(path, error)
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # `read` reports it
        return Item(path, partial(read_file, path))
    return Item(path, partial(read_file, path), bytes=status.st_size, mtime=status.st_mtime_ns)


def open_file(path: str) -> BinaryIO:
    """Open an archive or table for reading.

    Raises:
        ImageNotFoundError: no file there.
        ImageUnreadableError: a folder, a device, or no permission.
    """
    with _naming(path, path):
        return open_regular_file(path, item=path, max_bytes=None)[0]


def read_file(path: str) -> bytes:
    """Read a whole image file.

    Raises:
        ImageNotFoundError: no file there.
        ImageTooLargeError: larger than `MAX_FILE_BYTES`.
        ImageUnreadableError: a folder, a device, no permission, or reading failed.
    """
    with _naming(path, path):
        return read_image_file(path, item=path)


def read_range(path: str, offset: int, num_bytes: int, *, item: str) -> bytes:
    """Read a part of a file.

    Args:
        path: the file.
        offset: where the part begins.
        num_bytes: its size.
        item: names it in errors.

    Raises:
        ImageNotFoundError: no file there.
        ImageTooLargeError: the part is larger than `MAX_FILE_BYTES`.
        ImageTruncatedError: the file ends inside the part.
        ImageUnreadableError: not a regular file, or reading failed.
    """
    check_size(num_bytes, item=item)
    with _naming(path, item):
        file, _ = open_regular_file(path, item=item, max_bytes=None)
    try:
        with file:
            data = _read_at(file.fileno(), offset, num_bytes)
    except (OSError, ValueError) as err:
        raise _unreadable(item, err) from err
    if len(data) < num_bytes:
        raise ImageTruncatedError(
            f"{item}: the file ends {num_bytes - len(data)} bytes before this image does; "
            "fetch it again",
            item=item,
        )
    return data


def check_size(num_bytes: int, *, item: str) -> None:
    """Refuse an image of an archive or table that is larger than an image file may be.

    Raises:
        ImageTooLargeError: larger than `MAX_FILE_BYTES`.
    """
    if num_bytes > MAX_FILE_BYTES:
        raise ImageTooLargeError(
            f"{item}: the image has {num_bytes:,} bytes, the limit is {MAX_FILE_BYTES:,}; scale it "
            "down or compress it",
            item=item,
        )


def _read_at(descriptor: int, offset: int, num_bytes: int) -> bytes:
    parts = []
    while num_bytes > 0 and (part := os.pread(descriptor, num_bytes, offset)):
        parts.append(part)  # one read returns at most 2 GiB
        offset += len(part)
        num_bytes -= len(part)
    return b"".join(parts)


@contextmanager
def _naming(path: str, item: str) -> Iterator[None]:
    """Add the file to errors about a part of it, and a hint to errors about a folder."""
    try:
        yield
    except ImageNotFoundError as err:
        raise ImageNotFoundError(
            f"{item}: there is no file {path}; check the path", item=item
        ) from err
    except ImageUnreadableError as err:
        if not os.path.isdir(path):
            raise
        raise ImageUnreadableError(f"{item}: this is a folder; name one file", item=item) from err


def _unreadable(item: str, err: Exception) -> ImageUnreadableError:
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return ImageUnreadableError(f"{item}: cannot be read: {reason}", item=item)


class FileInfo(NamedTuple):
    """Size in bytes and time of the last change in ns since 1970, where known."""

    bytes: int | None
    mtime: int | None


class FileAccess:
    """Reads paths and URLs with one set of options. Threads may share it."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._allow_network = options.allow_network
        self._web = Web(timeout_seconds=options.timeout_seconds, max_bytes=options.max_bytes)
        self.remote = Remote(max_bytes=options.max_bytes)

    def __reduce__(self) -> "tuple[Callable[[SourceOptions], FileAccess], tuple[SourceOptions]]":
        """Pickle the options only; connections cannot be moved."""
        return get_access, (self._options,)

    def item(self, name: str, folder: str = "") -> Item:
        """Return the item of an image that a list or table names.

        Args:
            name: a path or URL.
            folder: the base of a relative path.
        """
        uri = make_absolute(name, folder)
        if not scheme_of(uri):
            return make_file_item(uri)
        if (error := find_name_error(uri)) is not None:
            return make_broken_item(uri, error, is_remote=True)
        if is_video(uri):
            return make_broken_item(uri, _REMOTE_VIDEO, is_remote=True)
        return Item(uri, partial(self.read, uri), is_remote=True)

    def entry_item(self, entry: RemoteEntry, sidecars: Sequence[Sidecar] = ()) -> Item:
        """Return the item of an image in a store's listing, with its sidecars there."""
        if is_video(entry.url):
            return make_broken_item(entry.url, _REMOTE_VIDEO, is_remote=True)
        return Item(
            entry.url,
            partial(self.read, entry.url, entry.bytes),
            bytes=entry.bytes,
            mtime=entry.mtime,
            is_remote=True,
            sidecars=tuple(sidecars),
        )

    def read(self, uri: str, num_bytes: int | None = None) -> bytes:
        """Read a whole file; its size saves a request if it is known.

        Raises:
            ImageError: it cannot be read.
        """
        if not scheme_of(uri):
            return read_file(uri)
        self._check_network(uri)
        if is_web(uri):
            return self._web.fetch(uri)
        return self.remote.read(uri, num_bytes)

    def read_range(self, uri: str, offset: int, num_bytes: int, *, item: str) -> bytes:
        """Read a part of a file; `item` names it in errors.

        Raises:
            ImageTruncatedError: the file ends inside the part.
            ImageError: it cannot be read.
        """
        if not scheme_of(uri):
            return read_range(uri, offset, num_bytes, item=item)
        self._check_network(uri)
        return self.remote.read_range(uri, offset, num_bytes, item=item)

    def open(self, uri: str) -> IO[bytes]:
        """Open an archive or table as a seekable file.

        Raises:
            ImageError: it cannot be read.
        """
        if not scheme_of(uri):
            return open_file(uri)
        self._check_network(uri)
        return self.remote.open(uri)

    def info(self, uri: str) -> FileInfo:
        """Return an archive's or table's size and time.

        Raises:
            ImageError: it cannot be found.
        """
        if scheme_of(uri):
            entry = self.entry(uri)
            return FileInfo(entry.bytes, entry.mtime)
        item = make_file_item(uri)
        return FileInfo(item.bytes, item.mtime)

    def entry(self, url: str) -> RemoteEntry:
        """Return what a store knows of one file or folder.

        Raises:
            ImageError: it does not exist, or cannot be reached.
        """
        self._check_network(url)
        return self.remote.entry(url)

    def folder(self, url: str) -> list[RemoteEntry]:
        """Return the entries of a folder on a store, in no order.

        Raises:
            ImageError: it cannot be listed.
        """
        self._check_network(url)
        return self.remote.folder(url)

    def _check_network(self, uri: str) -> None:
        if not self._allow_network:
            raise ImageUnreadableError(
                f"{uri}: is on a network, which may not be used here", item=uri
            )


@lru_cache(maxsize=4)
def get_access(options: SourceOptions) -> FileAccess:
    """Return this process's shared access with these options, which keeps its connections."""
    return FileAccess(options)
