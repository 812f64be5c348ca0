"""Filters by when, where and with what a photo was taken, as a condition on an index's columns.

The command line, the Python API and the server build them here.
"""

from __future__ import annotations

import datetime
import math
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from perception_encoder.errors import QueryError
from perception_encoder.index.condition_tokens import shorten
from perception_encoder.metadata.dates import parse_since, parse_until
from perception_encoder.metadata.places import load_places

if TYPE_CHECKING:
    import pyarrow as pa

TAKEN_AT: Final = "taken_at"
CAMERA: Final = "camera"
PLACE: Final = ("latitude", "longitude")

_EARTH_METRES: Final = 6_371_008.8  # mean radius
_LARGEST_METRES: Final = math.pi * _EARTH_METRES
_DEGREE_METRES: Final = _LARGEST_METRES / 180
_MAX_TEXT: Final = 200  # characters of a camera or a place
_RADIUS: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(km|m)\s*", re.IGNORECASE)
_NEAR_FORM: Final = "write LATITUDE,LONGITUDE,RADIUS, such as 48.137,11.575,5km"
_TOWN_METRES: Final = 20_000.0
"""The radius of a town that is named without one."""


@dataclass(frozen=True, slots=True)
class Circle:
    """The points within `radius` metres of a point; degrees north and east."""

    latitude: float
    longitude: float
    radius: float

    def __post_init__(self) -> None:
        if not -90 <= self.latitude <= 90:
            raise QueryError(f"the latitude {self.latitude:g} is not from -90 to 90")
        if not -180 <= self.longitude <= 180:
            raise QueryError(f"the longitude {self.longitude:g} is not from -180 to 180")
        if not 0 < self.radius <= _LARGEST_METRES:
            raise QueryError(
                f"the radius of {self.radius:g} m is not from 0 to "
                f"{_LARGEST_METRES / 1000:,.0f} km, half of the way round the Earth"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `48.137,11.575,5km`, or a town such as `Munich`, `Paris,US` or `Munich,50km`.

        A town without a radius has 20 km.

        Raises:
            QueryError: it is written differently, a value is out of range, the town is unknown, or
                the extra `places`, which knows towns, is not installed.
        """
        parts = [part.strip() for part in text.split(",")]
        try:
            latitude, longitude = float(parts[0]), float(parts[1])
        except (ValueError, IndexError):
            return cls._of_town(text, parts)
        if len(parts) != 3:
            raise QueryError(f"{shorten(text)} is no place and radius; {_NEAR_FORM}")
        return cls(latitude, longitude, parse_radius(parts[2]))

    @classmethod
    def _of_town(cls, text: str, parts: list[str]) -> Self:
        radius = _TOWN_METRES
        if len(parts) > 1 and _RADIUS.fullmatch(parts[-1]):
            radius = parse_radius(parts.pop())
        if not 1 <= len(parts) <= 2 or not all(parts) or len(text) > _MAX_TEXT:
            raise QueryError(
                f"{shorten(text)} is no place; {_NEAR_FORM}, or a town such as Munich or Paris,US"
            )
        town = load_places().find(*parts)
        return cls(town.latitude, town.longitude, radius)

    def condition(self) -> str:
        """Return the condition that a row is in the circle, also across the date line and a pole.

        The band of latitudes is cheap to compare; the haversine decides.
        """
        latitude, longitude = PLACE
        reach = self.radius / _DEGREE_METRES + 1e-9
        half = math.sin(self.radius / _EARTH_METRES / 2) ** 2
        half_degree, degree = math.pi / 360, math.pi / 180
        north = f"sin((`{latitude}` + {0 - self.latitude!r}) * {half_degree!r})"
        east = f"sin((`{longitude}` + {0 - self.longitude!r}) * {half_degree!r})"
        shrink = f"{math.cos(math.radians(self.latitude))!r} * cos(`{latitude}` * {degree!r})"
        return (
            f"`{latitude}` >= {self.latitude - reach!r}"
            f" AND `{latitude}` <= {self.latitude + reach!r}"
            f" AND {north} * {north} + {shrink} * {east} * {east} <= {half!r}"
        )


def parse_radius(text: str) -> float:
    """Return the metres of `5km` or `300m`.

    Raises:
        QueryError: it is written differently.
    """
    found = _RADIUS.fullmatch(text)
    if found is None:
        raise QueryError(
            f"{shorten(text)} is no radius; give it a unit, as in 5km or 300m; {_NEAR_FORM}"
        )
    return float(found[1]) * (1000 if found[2].lower() == "km" else 1)


@dataclass(frozen=True, slots=True)
class PhotoFilter:
    """When, where and with what a photo was taken; None leaves a question open.

    Attributes:
        since: the first moment, wall-clock time at the camera.
        until: the first moment after the last.
        near: where.
        camera: a part of its name, in any case.
    """

    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    near: Circle | None = None
    camera: str | None = None

    @classmethod
    def parse(
        cls,
        *,
        since: str | datetime.date | None = None,
        until: str | datetime.date | None = None,
        near: str | tuple[float, float, float] | None = None,
        camera: str | None = None,
        now: datetime.datetime | None = None,
    ) -> Self:
        """Read a filter as people write it.

        Args:
            since: "2023", "2023-05", "2023-05-04", "yesterday", "2 weeks ago", a date or a time.
            until: likewise; the whole year, month or day is included.
            near: "LATITUDE,LONGITUDE,RADIUS" with a radius such as 5km or 300m; the name of a town;
                or degrees, degrees and metres.
            camera: a part of the camera's name, in any case.
            now: what dates such as "yesterday" refer to; by default the time of this machine.

        Raises:
            QueryError: a value cannot be understood, or `near` names a town and the extra `places`
                is not installed.
        """
        now = now or datetime.datetime.now()
        if camera is not None and not 0 < len(camera.strip()) <= _MAX_TEXT:
            raise QueryError(f"a camera's name has 1 to {_MAX_TEXT} characters")
        return cls(
            since=None if since is None else _parse_moment(since, now, is_end=False),
            until=None if until is None else _parse_moment(until, now, is_end=True),
            near=_parse_near(near),
            camera=None if camera is None else camera.strip(),
        )

    def __bool__(self) -> bool:
        return self != PhotoFilter()

    def condition(self, schema: pa.Schema, path: str) -> str | None:
        """Return the SQL condition for an index; None if nothing is asked.

        Args:
            schema: of the index.
            path: of the index, for the message.

        Raises:
            QueryError: the index lacks a column.
        """
        parts = []
        if self.since is not None:
            parts.append(f"`{TAKEN_AT}` >= '{self.since.isoformat()}'")
        if self.until is not None:
            parts.append(f"`{TAKEN_AT}` < '{self.until.isoformat()}'")
        if parts:
            check_column(schema, TAKEN_AT, path)
        if self.near is not None:
            for column in PLACE:
                check_column(schema, column, path)
            parts.append(self.near.condition())
        if self.camera is not None:
            check_column(schema, CAMERA, path)
            name = self.camera.lower().replace("'", "''")
            parts.append(f"contains(lower(`{CAMERA}`), '{name}')")
        return " AND ".join(parts) or None

    def where(self, where: str | None, schema: pa.Schema, path: str) -> str | None:
        """Return a condition that also asks for this filter; see `condition`."""
        own = self.condition(schema, path)
        if own is None:
            return where
        return own if where is None else f"({where}) AND {own}"


_KINDS: Final = {TAKEN_AT: "times", CAMERA: "texts", **dict.fromkeys(PLACE, "numbers")}


def check_column(schema: pa.Schema, column: str, path: str) -> None:
    """Refuse a question that an index has no column for.

    Raises:
        QueryError: the index lacks the column, or it holds something else.
    """
    from pyarrow import types

    if column not in schema.names:
        raise QueryError(
            f"the index {path} has no {column}: none of its photos has one, or it was made without "
            f"metadata; to read it: pe index --refresh-metadata --index {shlex.quote(path)}"
        )
    kind = schema.field(column).type
    is_right = {
        "times": types.is_timestamp(kind),
        "texts": types.is_string(kind) or types.is_large_string(kind),
        "numbers": types.is_floating(kind) or types.is_integer(kind),
    }
    if not is_right[_KINDS[column]]:
        raise QueryError(
            f"the column {column} of the index {path} holds {kind}, not {_KINDS[column]}; it is a "
            "column of a table that was indexed, so compare it with --where"
        )


def _parse_moment(
    value: str | datetime.date, now: datetime.datetime, *, is_end: bool
) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, datetime.date):
        value = value.isoformat()
    return (parse_until if is_end else parse_since)(value, now)


def _parse_near(near: str | tuple[float, float, float] | None) -> Circle | None:
    if near is None:
        return None
    return Circle.parse(near) if isinstance(near, str) else Circle(*near)
