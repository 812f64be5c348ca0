"""What a source lists and what every source can do. Knows no files, archives or networks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NoReturn, Protocol, runtime_checkable

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.index import MetadataValue, item_name, row_id
from perception_encoder.index.rows import clamp_time

_HAS_NUL: Final = "the name holds a NUL character, which no file system knows; rename it"
NOT_UNICODE: Final = "the name is not valid Unicode and cannot be stored; rename the file"


@dataclass(frozen=True, slots=True)
class Item:
    """One picture that a source names, before anything of it is read.

    Something that a source could not list (a folder without permission, the rest of a damaged
    archive, a name that is not valid Unicode) is an item too, and its `read` says why.

    Attributes:
        uri: absolute path or URL of the file that holds it; always valid Unicode.
        read: reads the encoded picture, from any thread; raises `ImageError` or `OSError`. It can
            be pickled, so that another machine may read.
        member: its name inside the archive or table at uri.
        offset: where its bytes begin in the file at uri (members of uncompressed tars).
        bytes: size of the encoded picture, where known before reading.
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
    """Where pictures come from, as one argument of a command names it."""

    @property
    def name(self) -> str:
        """As it was given; for messages."""
        ...

    def items(self) -> Iterator[Item]:
        """List the pictures, in an order that stays the same, holding only a few in memory.

        Never raises for what it finds: what cannot be listed is an item whose `read` raises. The
        same id may come twice (a picture that is named twice).
        """
        ...

    def covers(self, uri: str, member: str | None) -> bool:
        """Say whether `items` would have listed this one, if it still existed.

        To be asked when `items` has ended. In doubt, as below a folder that could not be read, the
        answer is no: a picture must not be taken for gone because a disk was.
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


def notes_of(sources: Iterable[Source]) -> list[str]:
    """Return what sources have to say when they have been listed."""
    return [
        note for source in sources if isinstance(source, ReportingSource) for note in source.notes()
    ]


def broken(uri: str, message: str, *, member: str | None = None, is_remote: bool = False) -> Item:
    """Return the item of something that could not be listed; its `read` raises the message.

    Args:
        uri: what it is about, in any spelling.
        message: what happened and what to do; the name before it may be left out.
        member: its name inside the archive or table at uri.
        is_remote: it lies behind a network.
    """
    uri, member = shown(uri), None if member is None else shown(member)
    item = item_name(uri, member)
    reason = shown(message).removeprefix(f"{uri}: ")
    return Item(uri, partial(_refuse, item, reason), member, is_remote=is_remote)


def _refuse(item: str, reason: str) -> NoReturn:
    raise ImageUnreadableError(f"{item}: {reason}", item=item)


def is_broken(item: Item) -> bool:
    """Say whether an item is of `broken`."""
    return isinstance(item.read, partial) and item.read.func is _refuse


def name_problem(name: str) -> str | None:
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


def shown(name: str) -> str:
    r"""Return the name with what is not valid Unicode written as `\udcff`, and NUL as `\x00`."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
