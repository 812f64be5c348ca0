"""Rows of an index and hits of a search."""

from __future__ import annotations

import datetime
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self, TypeAlias

from perception_encoder.index.tiles import (
    TILE_OF,
    Box,
    box_of,
    image_member,
    without_tile_columns,
)
from perception_encoder.video.names import format_time, is_moment, parse_moment

if TYPE_CHECKING:
    import pyarrow as pa


MetadataValue: TypeAlias = str | int | float | bool | datetime.datetime | None
"""A value of a metadata column. Times have no zone and are stored to the microsecond."""

_ID_BYTES = 16
_LATEST_TIME: Final = 2**63 - 1
"""In the year 2262: the limit of 64-bit nanoseconds. The lowest number stands for no time, so the
earliest time is the negative of this."""
TIME_YEARS: Final = range(1678, 2262)
"""Years of times: conditions compare them as nanoseconds since 1970 in 64 bits."""

_Kind: TypeAlias = Literal["bool", "int", "float", "str", "time"]
_MAX_EXACT_INT: Final = 2**53  # beyond it float64 skips whole numbers
_INT64: Final = range(-(2**63), 2**63)


def clamp_time(nanoseconds: int | None) -> int | None:
    """Clamp a file's time to what an index can store."""
    if nanoseconds is None:
        return None
    return min(max(nanoseconds, -_LATEST_TIME), _LATEST_TIME)


def row_id(uri: str, member: str | None = None) -> str:
    """Return the id of an image: 32 hex digits of a hash of its uri and member.

    An image has the same id in every run and on every machine, so adding it again replaces its row.
    """
    key = uri if member is None else f"{uri}\0{member}"
    return hashlib.blake2b(key.encode(), digest_size=_ID_BYTES).hexdigest()


def _moment_of(
    uri: str, member: str | None, metadata: Mapping[str, MetadataValue]
) -> Moment | None:
    if member is None or not is_moment(uri, member):
        return None
    frame_time = parse_moment(member) or 0.0
    stored = (metadata.get(name) for name in Moment._fields)
    times = [float(one) if isinstance(one, int | float) else frame_time for one in stored]
    return Moment(*times)


def item_name(uri: str, member: str | None = None) -> str:
    """Return the name of an image in messages and queries; of a tile with its box."""
    if member is None:
        return uri
    is_tile_of_file = image_member(member) is None
    return f"{uri}{member}" if is_tile_of_file else f"{uri}/{member}"


class Moment(NamedTuple):
    """The times of a segment of a video, in seconds: start, end, and that of its frame."""

    start: float
    end: float
    frame_time: float


@dataclass(frozen=True)
class Row:
    """One image of an index, without its vector.

    Attributes:
        uri: where the image is: a path or a URL.
        member: its name inside the archive or index at `uri`; None for a plain file.
        offset: where its bytes begin in the file at `uri`; None for a plain file or where unknown.
        width: of the image as shown, pixels.
        height: of the image as shown, pixels.
        bytes: size of the encoded image.
        mtime: time of the last change, nanoseconds since 1970 (`os.stat_result.st_mtime_ns`).
        sha256: hex digest of the encoded image; copies and renamed files share it.
        metadata: more values; each name becomes a column that `where` can filter by.

    Raises:
        ValueError: uri or member is not valid Unicode (a file name in an old encoding).
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
        """The row's id, see `row_id`."""
        return row_id(self.uri, self.member)

    @property
    def name(self) -> str:
        """See `item_name`."""
        return item_name(self.uri, self.member)

    @property
    def moment(self) -> Moment | None:
        """The times of a segment of a video; None for images."""
        return _moment_of(self.uri, self.member, self.metadata)

    @property
    def tile_of(self) -> str | None:
        """The id of the image that a tile is of; None for images and moments."""
        key = self.metadata.get(TILE_OF)
        return key if isinstance(key, str) else None

    @property
    def shown_name(self) -> str:
        """The name for people: of a segment of a video, `clip.mp4 at 0:12`."""
        moment = self.moment
        return self.name if moment is None else f"{self.uri} at {format_time(moment.start)}"


@dataclass(frozen=True)
class Hit:
    """One result of a search: `score` is the cosine in [-1, 1]; other fields are as in `Row`.

    `box` is the part of the image that was found, in pixels of the image as shown; None for all.
    """

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
    box: Box | None = None

    @property
    def name(self) -> str:
        """See `item_name`."""
        return item_name(self.uri, self.member)

    @property
    def moment(self) -> Moment | None:
        """The times of a segment of a video; None for images."""
        return _moment_of(self.uri, self.member, self.metadata)

    @property
    def shown_name(self) -> str:
        """As `Row.shown_name`; with the part that was found, as queries write it."""
        return self.row.shown_name + ("" if self.box is None else self.box.fragment)

    def of_image(self) -> Self:
        """Return the image for a tile of it, which `box` tells; an image as it is."""
        key, box = self.metadata.get(TILE_OF), box_of(self.metadata)
        if box is None:
            return self
        metadata = without_tile_columns(self.metadata)
        member = image_member(self.member)
        return replace(self, id=str(key), member=member, metadata=metadata, box=box)

    @classmethod
    def of(cls, row: Row, score: float) -> Self:
        """Return a row as a hit."""
        shared = {one.name: getattr(row, one.name) for one in fields(row)}
        return cls(id=row.id, score=score, **shared)

    @property
    def row(self) -> Row:
        """Return the row that was found."""
        return Row(**{one.name: getattr(self, one.name) for one in fields(Row)})


class FileState(NamedTuple):
    """The size and time of an indexed file, by which changes are detected. Fields as in `Row`."""

    bytes: int | None
    mtime: int | None


def fit_metadata(rows: Sequence[Row], schema: pa.Schema) -> tuple[list[Row], Counter[str]]:
    """Convert the rows' metadata to the types of the index's columns, or to a common type.

    Numbers and times become text in a text column, integers become floats in a float column, and
    texts that are ISO 8601 become times in a time column. Values of several types in a new column
    become text.

    Args:
        rows: the rows, which are not changed.
        schema: the index's.

    Returns:
        The rows, and the number of values that were left out, by name.
    """
    kinds = _kinds(rows, schema)
    left_out = Counter[str]()
    fitted = []
    for row in rows:
        metadata: dict[str, MetadataValue] = {}
        for name, value in row.metadata.items():
            metadata[name] = None if value is None else _converted(value, kinds[name])
            left_out[name] += value is not None and metadata[name] is None
        fitted.append(replace(row, metadata=metadata) if metadata else row)
    return fitted, +left_out


def _kinds(rows: Sequence[Row], schema: pa.Schema) -> dict[str, _Kind]:
    """Return the type of each metadata column, present or new."""
    found: dict[str, set[_Kind]] = {}
    for row in rows:
        for name, value in row.metadata.items():
            kinds = found.setdefault(name, set())
            if value is not None:
                kinds.add(_kind_of(value))
    columns = set(schema.names)
    return {
        name: _kind_of_column(schema.field(name).type) if name in columns else _common(kinds)
        for name, kinds in found.items()
    }


def _kind_of(value: MetadataValue) -> _Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    return "time" if isinstance(value, datetime.datetime) else "str"


def _kind_of_column(column: pa.DataType) -> _Kind:
    import pyarrow as pa

    if pa.types.is_boolean(column):
        return "bool"
    if pa.types.is_integer(column):
        return "int"
    if pa.types.is_floating(column):
        return "float"
    return "time" if pa.types.is_timestamp(column) else "str"


def _common(kinds: set[_Kind]) -> _Kind:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float" if kinds == {"int", "float"} else "str"


def _converted(value: bool | int | float | str | datetime.datetime, kind: _Kind) -> MetadataValue:
    """Convert a value to a type; None if its value would change."""
    if kind == "str":
        text = value if isinstance(value, str) else to_text(value)
        return text if is_unicode(text) else None
    if isinstance(value, datetime.datetime) or kind == "time":
        return to_time(value) if kind == "time" else None
    if isinstance(value, bool) or kind == "bool":
        return value if isinstance(value, bool) and kind == "bool" else None
    if isinstance(value, str):
        return None
    if kind == "float":
        return float(value) if isinstance(value, float) or abs(value) <= _MAX_EXACT_INT else None
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            return None
        value = int(value)
    return value if value in _INT64 else None


def to_text(value: bool | int | float | str | datetime.datetime) -> str:
    """Return a metadata value as text; times in ISO 8601."""
    return value.isoformat() if isinstance(value, datetime.datetime) else str(value)


def to_time(value: object) -> datetime.datetime | None:
    """Return a time, or a text in ISO 8601, as a column of times stores it; else None.

    Times of a zone become those of UTC. Years beyond `TIME_YEARS` cannot be stored.
    """
    try:
        time = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(time, datetime.datetime):
            return None
        if time.tzinfo is not None:
            time = time.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # OverflowError: the year 0 or 10000 of another zone
        return None
    return time if time.year in TIME_YEARS else None


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
