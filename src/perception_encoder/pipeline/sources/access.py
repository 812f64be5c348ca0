"""The bytes at a path or URL, wherever it leads. Knows nothing of archives and tables."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import IO, NamedTuple

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.pipeline.sources.files import file_item, open_file, read_file, read_range
from perception_encoder.pipeline.sources.item import (
    Item,
    broken,
    name_problem,
)
from perception_encoder.pipeline.sources.names import absolute, is_web, scheme
from perception_encoder.pipeline.sources.options import SourceOptions
from perception_encoder.pipeline.sources.remote import Entry, Remote
from perception_encoder.pipeline.sources.web import Web


class FileFacts(NamedTuple):
    """Size in bytes and time of the last change in ns since 1970, where known."""

    bytes: int | None
    mtime: int | None


class Access:
    """Reads paths and URLs by one set of options. Any number of threads may share it."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._allow_network = options.allow_network
        self._web = Web(timeout_seconds=options.timeout_seconds, max_bytes=options.max_bytes)
        self.remote = Remote(max_bytes=options.max_bytes)

    def __reduce__(self) -> "tuple[Callable[[SourceOptions], Access], tuple[SourceOptions]]":
        """Pickle it as its options: connections stay where they are."""
        return access_by, (self._options,)

    def item(self, name: str, folder: str = "") -> Item:
        """Return the item of a picture that a list or table names.

        Args:
            name: a path or URL.
            folder: what a relative path is relative to.
        """
        uri = absolute(name, folder)
        if not scheme(uri):
            return file_item(uri)
        if (problem := name_problem(uri)) is not None:
            return broken(uri, problem, is_remote=True)
        return Item(uri, partial(self.read, uri), is_remote=True)

    def entry_item(self, entry: Entry) -> Item:
        """Return the item of a picture that a store has listed."""
        return Item(
            entry.url,
            partial(self.read, entry.url, entry.bytes),
            bytes=entry.bytes,
            mtime=entry.mtime,
            is_remote=True,
        )

    def read(self, uri: str, num_bytes: int | None = None) -> bytes:
        """Read a whole file, whose size is given where known.

        Raises:
            ImageError: it cannot be read.
        """
        if not scheme(uri):
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
        if not scheme(uri):
            return read_range(uri, offset, num_bytes, item=item)
        self._check_network(uri)
        return self.remote.read_range(uri, offset, num_bytes, item=item)

    def open(self, uri: str) -> IO[bytes]:
        """Open an archive or table; it can be sought in.

        Raises:
            ImageError: it cannot be read.
        """
        if not scheme(uri):
            return open_file(uri)
        self._check_network(uri)
        return self.remote.open(uri)

    def facts(self, uri: str) -> FileFacts:
        """Return an archive's or table's size and time.

        Raises:
            ImageError: it cannot be found.
        """
        if scheme(uri):
            entry = self.entry(uri)
            return FileFacts(entry.bytes, entry.mtime)
        item = file_item(uri)
        return FileFacts(item.bytes, item.mtime)

    def entry(self, url: str) -> Entry:
        """Return what a store tells of one file or folder.

        Raises:
            ImageError: there is none, or it cannot be reached.
        """
        self._check_network(url)
        return self.remote.entry(url)

    def folder(self, url: str) -> list[Entry]:
        """Return what lies directly in a folder on a store, in no order.

        Raises:
            ImageError: it cannot be listed.
        """
        self._check_network(url)
        return self.remote.folder(url)

    def _check_network(self, uri: str) -> None:
        if not self._allow_network:
            raise ImageUnreadableError(
                f"{uri}: lies behind a network, which may not be used here", item=uri
            )


@lru_cache(maxsize=4)
def access_by(options: SourceOptions) -> Access:
    """Return this process's access by those options, which keeps its connections."""
    return Access(options)
