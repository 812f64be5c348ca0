"""What a source lists and what every source can do. Knows no files, archives or networks."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NoReturn, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.index import MetadataValue, item_name, row_id
from perception_encoder.index.rows import clamp_time
from perception_encoder.sources.patterns import suffix_of

_HAS_NUL: Final = "the name holds a NUL character, which no file system knows; rename it"
NOT_UNICODE: Final = "the name is not valid Unicode and cannot be stored; rename the file"
_MIB: Final = 2**20
TABLE_SUFFIXES: Final = frozenset((".csv", ".jsonl", ".ndjson", ".parquet", ".tsv"))
_TAR_ENDINGS: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+)(?:::.*)?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Item:
    """One image that a source names, before anything of it is read.

    Something that a source could not list (a folder without permission, the rest of a damaged
    archive, a name that is not valid Unicode) is an item too, and its `read` says why.

    Attributes:
        uri: absolute path or URL of the file that holds it; always valid Unicode.
        read: reads the encoded image, from any thread; raises `ImageError` or `OSError`. It can
            be pickled, so that another machine may read.
        member: its name inside the archive or table at uri.
        offset: where its bytes begin in the file at uri (members of uncompressed tars).
        bytes: size of the encoded image, where known before reading.
        mtime: of the file at uri, nanoseconds since 1970, where known; a wild one is clamped, so
            that all that is compared with it and written of it is the same.
        metadata: what the source says of it; the names can be columns of a table.
        is_remote: reading waits for a network.
    """

    uri: str
    read: Callable[[], bytes]
    member: str | None = None
    offset: int | None = None
    bytes: int | None = None
    mtime: int | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    is_remote: bool = False

    def __post_init__(self) -> None:
        if (clamped := clamp_time(self.mtime)) != self.mtime:
            object.__setattr__(self, "mtime", clamped)

    @property
    def id(self) -> str:
        """The key of its row, see `row_id`."""
        return row_id(self.uri, self.member)


class Source(Protocol):
    """Where images come from, as one argument of a command names it."""

    @property
    def name(self) -> str:
        """As it was given; for messages."""
        ...

    def items(self) -> Iterator[Item]:
        """List the images, in an order that stays the same, holding only a few in memory.

        Never raises for what it finds: what cannot be listed is an item whose `read` raises. The
        same id may come twice (an image that is named twice).
        """
        ...

    def covers(self, uri: str, member: str | None) -> bool:
        """Say whether `items` would have listed this one, if it still existed.

        To be asked when `items` has ended. In doubt, as below a folder that could not be read, the
        answer is no: an image must not be taken for gone because a disk was.
        """
        ...


@runtime_checkable
class ReportingSource(Source, Protocol):
    """A source that tells of what it has left out. Both are asked when `items` has ended."""

    def notes(self) -> list[str]:
        """Say what `items` has left out, and how many: sentences for a person."""
        ...

    def leaves_out(self, uri: str, member: str | None) -> bool:
        """Say whether `items` would list this one, were it not for what it was told to leave out.

        In doubt the answer is no.
        """
        ...


def collect_notes(sources: Iterable[Source]) -> list[str]:
    """Return what sources have to say when they have been listed."""
    return [
        note for source in sources if isinstance(source, ReportingSource) for note in source.notes()
    ]


def make_broken_item(
    uri: str, message: str, *, member: str | None = None, is_remote: bool = False
) -> Item:
    """Return the item of something that could not be listed; its `read` raises the message.

    Args:
        uri: what it is about, in any spelling.
        message: what happened and what to do; the name before it may be left out.
        member: its name inside the archive or table at uri.
        is_remote: it lies behind a network.
    """
    uri, member = escape_name(uri), None if member is None else escape_name(member)
    item = item_name(uri, member)
    reason = escape_name(message).removeprefix(f"{uri}: ")
    return Item(uri, partial(_refuse, item, reason), member, is_remote=is_remote)


def _refuse(item: str, reason: str) -> NoReturn:
    raise ImageUnreadableError(f"{item}: {reason}", item=item)


def is_broken(item: Item) -> bool:
    """Say whether an item is of `make_broken_item`."""
    return isinstance(item.read, partial) and item.read.func is _refuse


def find_name_problem(name: str) -> str | None:
    """Say why a name cannot be stored, if it cannot."""
    if not is_unicode(name):
        return NOT_UNICODE
    return _HAS_NUL if "\0" in name else None


def is_unicode(name: str) -> bool:
    """Say whether a name can be stored. Names of files in an old encoding cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape_name(name: str) -> str:
    r"""Return the name with what is not valid Unicode written as `\udcff`, and NUL as `\x00`."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Settings of `open_sources`; each source takes what concerns it.

    Attributes:
        exclude: patterns of files and folders to leave out, as in .gitignore: one without a slash
            meets a name at any depth (`node_modules`, `*.tmp.jpg`), one with a slash a path below
            the folder that is searched (`raw/**`), one with a slash at its end only folders.
        include_hidden: list files and folders whose names begin with a dot, and the folders that
            systems keep beside images (`select.SYSTEM_FOLDERS`).
        null_separated: names on standard input end with NUL instead of a newline.
        column: the column of a table that holds the images, their paths or URLs.
        timeout_seconds: of one wait for an answer from a network.
        max_bytes: size above which an image is not brought over a network.
        allow_network: False refuses every read that would need a network.
    """

    exclude: tuple[str, ...] = ()
    include_hidden: bool = False
    null_separated: bool = False
    column: str | None = None
    timeout_seconds: float = 20.0
    max_bytes: int = 128 * _MIB
    allow_network: bool = True


def scheme_of(name: str) -> str:
    """Return `s3` of `s3://bucket/key`, and nothing of a path."""
    found = _SCHEME.match(name)
    return found[1].lower() if found else ""


def is_web(name: str) -> bool:
    """Say whether a name is an http or https URL."""
    return scheme_of(name) in ("http", "https")


def is_tar(name: str) -> bool:
    """Say whether a name ends like a tar archive's, packed or not."""
    return name.lower().endswith(_TAR_ENDINGS)


def is_packed(name: str) -> bool:
    """Say whether a tar archive is compressed, so that it must be read from its start."""
    return not name.lower().endswith(".tar")


def is_table(name: str) -> bool:
    """Say whether a name ends like a table's that can hold images."""
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
