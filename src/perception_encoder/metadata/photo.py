"""What a photo says of itself: when, where and with what it was taken, and what people wrote on it.

Each value is also a column of an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

ColumnKind: TypeAlias = Literal["datetime", "int", "float", "str"]
ColumnValue: TypeAlias = datetime | int | float | str

COLUMNS: Final[Mapping[str, ColumnKind]] = MappingProxyType(
    {
        "taken_at": "datetime",
        "taken_offset": "int",
        "latitude": "float",
        "longitude": "float",
        "altitude": "float",
        "camera": "str",
        "lens": "str",
        "iso": "int",
        "exposure_time": "float",
        "f_number": "float",
        "focal_length": "float",
        "rating": "int",
        "title": "str",
        "caption": "str",
        "keywords": "str",
    }
)
"""The fields of `PhotoMetadata` and their kinds. A datetime has milliseconds and no time zone."""

_TEXTS: Final = ("rating", "title", "caption", "keywords")
# Values that belong together: a place of one source and an altitude of another are no place.
_TOGETHER: Final = (("taken_at", "taken_offset"), ("latitude", "longitude", "altitude"))
_TOGETHER_NAMES: Final = {name for group in _TOGETHER for name in group}
_GROUPS: Final = (*_TOGETHER, *((name,) for name in COLUMNS if name not in _TOGETHER_NAMES))


class TakenTime(NamedTuple):
    """A time as `PhotoMetadata` has it: without a time zone, and its offset where known."""

    taken_at: datetime
    taken_offset: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoMetadata:
    """The metadata of one photo. A value that is missing or cannot be right is None.

    Texts have no control characters, no space around them, and a limited length (`caption` and
    `keywords` 2,000 characters, others 300); longer ones are cut.

    Attributes:
        taken_at: wall-clock time at the camera, 1826 to 2100, milliseconds, without a time zone.
        taken_offset: minutes that the camera's clock was east of UTC, -840 to 840. None: not known.
        latitude: degrees north of the equator, -90 to 90; there is a longitude too.
        longitude: degrees east of Greenwich, -180 to 180; there is a latitude too.
        altitude: meters above sea level, -11,000 to 100,000.
        camera: maker and model, such as "Canon EOS 5D".
        lens: its name, as the camera writes it.
        iso: the sensitivity, 1 to 10,000,000.
        exposure_time: seconds, above 0, up to 1,000,000.
        f_number: focal length divided by aperture, above 0, up to 1,000.
        focal_length: millimeters, above 0, up to 100,000, not converted to 35 mm film.
        rating: 0 (none) or 1 to 5 stars; -1 is rejected.
        title: a short name that someone gave it.
        caption: a description of what it shows.
        keywords: joined by "; ", each once.
    """

    taken_at: datetime | None = None
    taken_offset: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    altitude: float | None = None
    camera: str | None = None
    lens: str | None = None
    iso: int | None = None
    exposure_time: float | None = None
    f_number: float | None = None
    focal_length: float | None = None
    rating: int | None = None
    title: str | None = None
    caption: str | None = None
    keywords: str | None = None

    def columns(self) -> dict[str, ColumnValue]:
        """Return the values that are not None, by column."""
        values = ((name, getattr(self, name)) for name in COLUMNS)
        return {name: value for name, value in values if value is not None}

    def fill_from(self, *others: PhotoMetadata) -> PhotoMetadata:
        """Return these values, and where there are none those of the first source that has them.

        A time comes with its offset, and a place with its altitude, from one source.
        """
        sources = (self, *others)
        values: dict[str, Any] = {}
        for group in _GROUPS:
            first = group[0]
            source = next((one for one in sources if getattr(one, first) is not None), self)
            for name in group:
                values[name] = getattr(source, name)
        return PhotoMetadata(**values)

    def with_texts_of(self, other: PhotoMetadata) -> PhotoMetadata:
        """Return these values with the rating, title, caption and keywords of another source."""
        return replace(self, **{name: getattr(other, name) for name in _TEXTS})


class ReadTags(NamedTuple):
    """What one kind of metadata says.

    Attributes:
        metadata: the values.
        digitized: when the image was stored, which of a scan is long after it was taken.
    """

    metadata: PhotoMetadata
    digitized: TakenTime | None = None
