"""Filters by time, place and camera find the rows that a person would expect."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, MetadataValue, Row
from perception_encoder.search.photo_filters import Circle, PhotoFilter, parse_radius
from perception_encoder.types import ModelIdentity

IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 4)
NOW = datetime.datetime(2024, 7, 1, 12)
MUNICH = (48.137, 11.575)
PHOTOS: dict[str, dict[str, MetadataValue]] = {
    "munich": {"latitude": 48.14, "longitude": 11.58, "camera": "Canon EOS R5"},
    "dachau": {"latitude": 48.26, "longitude": 11.43, "camera": "NIKON Z 6"},
    "fiji-west": {"latitude": -16.8, "longitude": 179.99, "camera": "O'Neil 50%_cam"},
    "fiji-east": {"latitude": -16.8, "longitude": -179.99},
    "pole": {"latitude": 89.99, "longitude": -170.0},
    "new year": {"taken_at": datetime.datetime(2023, 1, 1)},
    "new year's eve": {"taken_at": datetime.datetime(2023, 12, 31, 23, 59, 59, 999_000)},
    "yesterday": {"taken_at": datetime.datetime(2024, 6, 30, 1)},
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.create(tmp_path_factory.mktemp("filters") / "t.lance", IDENTITY)
    rows = [Row(name, metadata=metadata) for name, metadata in PHOTOS.items()]
    index.append(rows, np.tile(np.array([1, 0, 0, 0], np.float32), (len(rows), 1)))
    return index


def found(index: Index, **asked: str) -> list[str]:
    photos = PhotoFilter.parse(now=NOW, **asked)
    return [row.uri for row in index.rows(where=photos.where(None, index.schema, index.path))]


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        ("48.137,11.575,5km", ["munich"]),
        ("48.137, 11.575, 20 km", ["munich", "dachau"]),
        ("48.14,11.58,1m", ["munich"]),
        ("-16.8,180,5km", ["fiji-west", "fiji-east"]),
        ("-16.8,-180,5km", ["fiji-west", "fiji-east"]),
        ("-16.8,179.99,1000m", ["fiji-west"]),
        ("90,0,2km", ["pole"]),
        ("89.99,10,3km", ["pole"]),
        ("0,0,20015km", ["munich", "dachau", "fiji-west", "fiji-east", "pole"]),
    ],
)
def test_near_finds_what_is_within_the_radius(index: Index, near: str, expected: list[str]) -> None:
    assert found(index, near=near) == expected


@given(
    st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180),
    st.floats(1, 2e7),
)  # fmt: skip
def test_the_condition_is_the_distance_on_a_sphere(
    latitude: float, longitude: float, other: float, other_longitude: float, radius: float
) -> None:
    def point(lat: float, lon: float) -> np.ndarray:
        lat, lon = math.radians(lat), math.radians(lon)
        return np.array(
            [math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)]
        )

    a, b = point(latitude, longitude), point(other, other_longitude)
    distance = 6_371_008.8 * 2 * math.asin(min(1, float(np.linalg.norm(a - b)) / 2))
    if abs(distance - radius) < 1e-6 * (1 + distance):
        return
    written = Circle(latitude, longitude, radius).condition()
    written = written.replace("`", "").replace("AND", "and")
    values = {"latitude": other, "longitude": other_longitude, "sin": math.sin, "cos": math.cos}
    assert eval(written, values) == (distance < radius)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"since": "2023", "until": "2023"}, ["new year", "new year's eve"]),
        ({"since": "2023-12-31"}, ["new year's eve", "yesterday"]),
        ({"until": "2023-01-01"}, ["new year"]),
        ({"since": "yesterday", "until": "yesterday"}, ["yesterday"]),
        ({"since": "2 days ago"}, ["yesterday"]),
        ({"since": "2025"}, []),
    ],
)
def test_times_include_the_whole_period(
    index: Index, asked: dict[str, str], expected: list[str]
) -> None:
    assert found(index, **asked) == expected


@pytest.mark.parametrize(
    ("camera", "expected"),
    [("canon", ["munich"]), (" eos r", ["munich"]), ("nikon z", ["dachau"]),
     ("o'neil", ["fiji-west"]), ("50%", ["fiji-west"]), ("%", ["fiji-west"]), ("leica", [])],
)  # fmt: skip
def test_a_camera_is_found_by_a_part_of_its_name(
    index: Index, camera: str, expected: list[str]
) -> None:
    assert found(index, camera=camera) == expected


def test_dates_may_be_python_objects(index: Index) -> None:
    photos = PhotoFilter.parse(
        since=datetime.datetime(2023, 12, 31, 23), until=datetime.date(2023, 12, 31)
    )
    where = photos.where(None, index.schema, index.path)
    assert [row.uri for row in index.rows(where=where)] == ["new year's eve"]


def test_filters_join_a_condition(index: Index) -> None:
    photos = PhotoFilter.parse(camera="canon", near="48,11,200km", now=NOW)
    where = photos.where("uri = 'dachau' OR uri = 'munich'", index.schema, index.path)
    assert [row.uri for row in index.rows(where=where)] == ["munich"]
    assert PhotoFilter().where("uri = 'pole'", index.schema, index.path) == "uri = 'pole'"
    assert not PhotoFilter()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"near": "48,11"}, "LATITUDE,LONGITUDE,RADIUS"),
        ({"near": "48,11,5"}, "unit"),
        ({"near": "91,11,5km"}, "latitude"),
        ({"near": "48,181,5km"}, "longitude"),
        ({"near": "nan,11,5km"}, "latitude"),
        ({"near": "48,11,0km"}, "radius"),
        ({"near": "48,11,99999km"}, "radius"),
        ({"since": "soon"}, "soon"),
        ({"camera": " "}, "camera"),
        ({"camera": "x" * 300}, "camera"),
    ],
)
def test_what_cannot_be_understood_is_refused(asked: dict[str, str], reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        PhotoFilter.parse(now=NOW, **asked)


def test_radii_have_units() -> None:
    assert (parse_radius("5km"), parse_radius(" 0.5 KM "), parse_radius("300 m")) == (
        5000,
        500,
        300,
    )


@pytest.mark.parametrize("asked", [{"since": "2023"}, {"near": "1,2,3km"}, {"camera": "x"}])
def test_an_index_without_the_column_says_how_to_get_it(
    tmp_path: Path, asked: dict[str, str]
) -> None:
    index = Index.create(tmp_path / "old.lance", IDENTITY)
    with pytest.raises(QueryError, match=r"pe index --refresh-metadata --index .*old\.lance"):
        found(index, **asked)


def test_a_column_of_another_kind_is_refused(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "t.lance", IDENTITY)
    index.append([Row("a", metadata={"taken_at": "last summer"})], np.eye(4, dtype=np.float32)[:1])
    with pytest.raises(QueryError, match="holds string, not times"):
        found(index, since="2023")
