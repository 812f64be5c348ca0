"""What goes into a table and what comes out of a search, as plain values.

Knows nothing of Arrow, Lance or files.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple, Self, TypeAlias

MetadataValue: TypeAlias = str | int | float | bool | None

_ID_BYTES = 16
_LATEST_TIME: Final = 2**63 - 1
"""In the year 2262: what 64-bit nanoseconds hold. Their lowest number stands for no time, so the
earliest is the negative of this."""


def clamp_time(nanoseconds: int | None) -> int | None:
    """Return a file's time within what an index can store; wild ones become the nearest."""
    if nanoseconds is None:
        return None
    return min(max(nanoseconds, -_LATEST_TIME), _LATEST_TIME)


def row_id(uri: str, member: str | None = None) -> str:
    """Return the key of a picture: 32 hex digits from its uri and its name inside an archive.

    The same picture has the same key in every run and on every machine, so that adding it again
    replaces its row.
    """
    key = uri if member is None else f"{uri}\0{member}"
    return hashlib.blake2b(key.encode(), digest_size=_ID_BYTES).hexdigest()


def item_name(uri: str, member: str | None = None) -> str:
    """Return what a picture is called on screens, in messages and after an `@`."""
    return uri if member is None else f"{uri}/{member}"


@dataclass(frozen=True)
class Row:
    """One picture of a table, without its vector.

    Attributes:
        uri: where the picture is: a path or a URL.
        member: its name inside the archive or table at `uri`; None for a plain file.
        offset: where its bytes begin in the file at `uri`; None for a plain file or where unknown.
        width: of the picture as shown, pixels.
        height: of the picture as shown, pixels.
        bytes: size of the encoded picture.
        mtime: time of the last change, nanoseconds since 1970 (`os.stat_result.st_mtime_ns`).
        sha256: hex digest of the encoded picture; copies and renamed files share it.
        metadata: whatever else is known; each name becomes a column that `where` can filter by.

    Raises:
        ValueError: uri or member cannot be written as UTF-8 (a file name in an old encoding).
    """

    uri: str
    member: str | None = None
    offset: int | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    mtime: int | None = None
    sha256: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.uri, self.member or ""):
            try:
                name.encode()
            except UnicodeEncodeError as err:
                raise ValueError(
                    f"{name!a}: the name is not valid Unicode and cannot be stored; rename the file"
                ) from err

    @property
    def id(self) -> str:
        """The row's key, see `row_id`."""
        return row_id(self.uri, self.member)

    @property
    def name(self) -> str:
        """See `item_name`."""
        return item_name(self.uri, self.member)


@dataclass(frozen=True)
class Hit:
    """One result of a search: `score` is the cosine in [-1, 1], higher is better; else as `Row`."""

    id: str
    score: float
    uri: str
    member: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    offset: int | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    mtime: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """See `item_name`."""
        return item_name(self.uri, self.member)

    @classmethod
    def of(cls, row: Row, score: float) -> Self:
        """Return the row as a result."""
        shared = {one.name: getattr(row, one.name) for one in fields(row)}
        return cls(id=row.id, score=score, **shared)

    @property
    def row(self) -> Row:
        """Return the row that was found."""
        return Row(**{one.name: getattr(self, one.name) for one in fields(Row)})


class FileState(NamedTuple):
    """What a table remembers of a file, to tell whether it has changed. Fields as in `Row`."""

    bytes: int | None
    mtime: int | None
