"""The interface of sources, the items that they list, and helpers for names and URLs."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, NoReturn, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from perception_encoder.errors import ImageError, ImageUnreadableError, SourceError
from perception_encoder.index import MetadataValue, item_name, row_id
from perception_encoder.index.rows import clamp_time
from perception_encoder.preprocess.crops import CropBox
from perception_encoder.sources.patterns import suffix_of

_HAS_NUL: Final = "the name holds a NUL character, which no file system knows; rename it"
NOT_UNICODE: Final = "the name is not valid Unicode and cannot be stored; rename the file"
_MIB: Final = 2**20
TABLE_SUFFIXES: Final = frozenset((".csv", ".jsonl", ".ndjson", ".parquet", ".tsv"))
_TAR_ENDINGS: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+)(?:::.*)?://", re.IGNORECASE)


class Sidecar(NamedTuple):
    """A file beside an image in a listing, with its metadata.

    Attributes:
        name: without its folder.
        read: reads it, as `Item.read` does.
        mtime: nanoseconds since 1970, where known.
    """

    name: str
    read: Callable[[], bytes]
    mtime: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, before it is read.

    What a source cannot list (a folder without permission, the rest of a damaged archive, a name
    that is not valid Unicode) is also an item; its `read` raises the reason.

    Attributes:
        uri: absolute path or URL of the file that holds it; always valid Unicode.
    read: reads the encoded image, from any thread; raises `ImageError` or `OSError`. It
            can be pickled and called on another machine.
        member: its name inside the archive or table at uri.
        offset: where its bytes begin in the file at uri (members of uncompressed tars).
        bytes: size of the encoded image, where known before reading.
        mtime: of the file at uri, nanoseconds since 1970, where known; clamped to 64 bits.
        metadata: what the source knows of it, by column name.
        is_remote: whether reading needs a network.
        sidecars: of a file on a network, those that its listing names. Those of this machine are
            looked for where they are read.
        crop: the part of the image that counts; its uri names it, too.
    """

    uri: str
    read: Callable[[], bytes]
    member: str | None = None
    offset: int | None = None
    bytes: int | None = None
    mtime: int | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    is_remote: bool = False
    sidecars: tuple[Sidecar, ...] = ()
    crop: CropBox | None = None

    def __post_init__(self) -> None:
        if (clamped := clamp_time(self.mtime)) != self.mtime:
            object.__setattr__(self, "mtime", clamped)

    @property
    def id(self) -> str:
        """The id of its row, see `row_id`."""
        return row_id(self.uri, self.member)


class Source(Protocol):
    """A source of images, such as one argument of a command."""

    @property
    def name(self) -> str:
        """Its name in messages, as the user wrote it."""
        ...

    def items(self) -> Iterator[Item]:
        """List the images, always in the same order, with only a few in memory.

        It never raises for what it finds: what cannot be listed is an item whose `read` raises.
        The same id may come twice.
        """
        ...

    def covers(self, uri: str, member: str | None) -> bool:
        """Whether `items` would list this image if it existed. Call it after `items` has ended.

        In doubt the answer is no, as below a folder that could not be read: an image is not gone
        because its disk is.
        """
        ...


@runtime_checkable
class ReportingSource(Source, Protocol):
    """A source that reports what it has skipped. Call both methods after `items` has ended."""

    def notes(self) -> list[str]:
        """Return sentences on what `items` has skipped, with counts."""
        ...

    def leaves_out(self, uri: str, member: str | None) -> bool:
        """Whether `items` skips this image only because of the options. In doubt no."""
        ...


def collect_notes(sources: Iterable[Source]) -> list[str]:
    """Return the notes of all sources that have been listed."""
    return [
        note for source in sources if isinstance(source, ReportingSource) for note in source.notes()
    ]


def make_broken_item(
    uri: str, message: str, *, member: str | None = None, is_remote: bool = False
) -> Item:
    """Return an item for something that cannot be listed; its `read` raises the message.

    Args:
        uri: the file or folder; need not be valid Unicode.
        message: what happened and what to do, with or without the name before it.
        member: its name inside the archive or table at uri.
        is_remote: whether it is on a network.
    """
    uri, member = escape_name(uri), None if member is None else escape_name(member)
    item = item_name(uri, member)
    reason = escape_name(message).removeprefix(f"{uri}: ")
    return Item(uri, partial(_refuse, item, reason), member, is_remote=is_remote)


def _refuse(item: str, reason: str) -> NoReturn:
    raise ImageUnreadableError(f"{item}: {reason}", item=item)


def is_broken(item: Item) -> bool:
    """Whether an item was made by `make_broken_item`."""
    return isinstance(item.read, partial) and item.read.func is _refuse


class ContainerSource(ABC):
    """Files that hold many images each, such as archives or tables.

    Args:
        name: their name in messages.
        uris: absolute paths or URLs.
        once_held: whether the name would match a file that no longer exists.
        leaves_out: whether a file that the name matches is excluded.
    """

    def __init__(
        self,
        name: str,
        uris: Sequence[str],
        once_held: Callable[[str], bool] = lambda _: False,
        leaves_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.name = name
        self._uris = uris
        self._known = frozenset(uris)
        self._once_held = once_held
        self._leaves_out = leaves_out
        self._notes: list[str] = []
        self._damaged = set[str]()

    def items(self) -> Iterator[Item]:
        """List the images of each file in its order."""
        self._damaged.clear()
        self._notes.clear()
        for uri in self._uris:
            try:
                yield from self._list(uri)
            except Exception as err:  # noqa: BLE001 — one damaged file must not end the run
                self._damaged.add(uri)
                is_ours = isinstance(err, ImageError | SourceError)
                reason = str(err) if is_ours else self._describe(err)
                yield make_broken_item(uri, reason, is_remote=bool(scheme_of(uri)))

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Whether `items` would list this member if its file had it."""
        return uri not in self._damaged and (uri in self._known or self._once_held(uri))

    def notes(self) -> list[str]:
        """Describe what was skipped in the files."""
        return list(self._notes)

    def leaves_out(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Whether the file is excluded by a pattern."""
        return uri not in self._known and self._leaves_out(uri)

    @abstractmethod
    def _list(self, uri: str) -> Iterator[Item]:
        """List the images of one file; what it skips is added to `_notes`."""

    @abstractmethod
    def _describe(self, err: Exception) -> str:
        """Return the reason why a file cannot be listed."""


def find_name_error(name: str) -> str | None:
    """Return why a name cannot be stored, or None."""
    if not is_unicode(name):
        return NOT_UNICODE
    return _HAS_NUL if "\0" in name else None


def is_unicode(name: str) -> bool:
    """Whether a name can be stored. File names in an old encoding cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape_name(name: str) -> str:
    r"""Return the name with invalid Unicode written as `\udcff`, and NUL as `\x00`."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Settings of `open_sources`.

    Attributes:
        exclude: patterns of files and folders to skip, as in .gitignore: without a slash they
            match a name at any depth (`node_modules`, `*.tmp.jpg`), with a slash a path below the
            source (`raw/**`), with a slash at the end only folders.
        include_hidden: also list names that begin with a dot, and `patterns.SYSTEM_FOLDERS`.
        null_separated: names on standard input end with NUL instead of a newline.
        column: the column of a table that holds the images, their paths or URLs.
        timeout_seconds: for one response from a network.
        max_bytes: the largest image to fetch from a network.
        allow_network: whether a network may be used.
        videos: also list the video files of folders of this machine.
        crops: `dog.jpg#xywh=10,20,200,150` names a part of an image.
    """

    exclude: tuple[str, ...] = ()
    include_hidden: bool = False
    null_separated: bool = False
    column: str | None = None
    timeout_seconds: float = 20.0
    max_bytes: int = 128 * _MIB
    allow_network: bool = True
    videos: bool = False
    crops: bool = False


def scheme_of(name: str) -> str:
    """Return `s3` of `s3://bucket/key`, and "" of a path."""
    found = _SCHEME.match(name)
    return found[1].lower() if found else ""


def is_web(name: str) -> bool:
    """Whether a name is an http or https URL."""
    return scheme_of(name) in ("http", "https")


def is_tar(name: str) -> bool:
    """Whether a name has the suffix of a tar archive, compressed or not."""
    return name.lower().endswith(_TAR_ENDINGS)


def is_packed(name: str) -> bool:
    """Whether a tar archive is compressed, so that it must be read from its start."""
    return not name.lower().endswith(".tar")


def is_table(name: str) -> bool:
    """Whether a name has the suffix of a table."""
    return suffix_of(name) in TABLE_SUFFIXES


def make_absolute(name: str, folder: str = "") -> str:
    """Return the absolute path or the URL of a name.

    Args:
        name: a path, or a URL; `file://` URLs become paths.
        folder: what a relative path is relative to; a path or a URL.
    """
    if scheme_of(name) == "file":
        return os.path.abspath(unquote(urlsplit(name).path))
    if scheme_of(name):
        return name
    if scheme_of(folder) and not name.startswith("/"):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.abspath(os.path.join(folder, name))
