"""Photos by time, place and camera: filters of search and listings, timeline, locations, facets."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path

import numpy as np
import pytest
from server.serving import running
from small_models import open_tiny

from perception_encoder.index import Index, MetadataValue, Row
from perception_encoder.index.schema import MetadataChoice
from perception_encoder.server import ServerSettings

PHOTOS: dict[str, dict[str, MetadataValue]] = {
    "b.jpg": {"taken_at": datetime.datetime(2023, 5, 4, 12), "camera": "Canon EOS R5"},
    "a.jpg": {"taken_at": datetime.datetime(2023, 5, 31, 23, 59, 59, 999_000)},
    "c.jpg": {"taken_at": datetime.datetime(2024, 1, 1), "latitude": 48.14, "longitude": 11.58},
    "d.jpg": {"latitude": 48.15, "longitude": 11.57, "camera": "NIKON Z 6"},
    "e.jpg": {"latitude": -16.8, "longitude": 179.99},
    "f.jpg": {"latitude": -16.8, "longitude": -179.99},
    "g.jpg": {"latitude": float("nan"), "longitude": 7.0},
    "h.jpg": {"taken_at": datetime.datetime(1889, 12, 31)},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("photos")
    model = open_tiny()
    vectors = np.tile(model.embed_text("a cat"), (len(PHOTOS), 1))
    rows = [Row(f"/photos/{name}", metadata=metadata) for name, metadata in PHOTOS.items()]
    for name, kept in (("photos", rows), ("bare", [Row("/x.jpg")])):
        index = Index.create(folder / f"{name}.lance", model.identity)
        index.append(kept, vectors[: len(kept)])
    paths = tuple(str(folder / f"{name}.lance") for name in ("photos", "bare"))
    settings = ServerSettings(indexes=paths, cache_folder=Path(folder / "thumbnails"))
    with running(settings, model=model) as running_server:
        yield running_server


def get(server, path: str, **params: object):
    reply = server.client.get(path, params=params)
    assert reply.status_code == 200, reply.text
    return reply.json()


def names(items: list[dict[str, object]]) -> str:
    return "".join(str(item["name"])[len("/photos/")] for item in items)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"since": "2023", "until": "2023"}, "ab"),
        ({"camera": "canon"}, "b"),
        ({"near": "48.14,11.58,5km"}, "cd"),
        ({"near": "-16.8,180,5km"}, "ef"),
        ({"since": "2024", "near": "48.14,11.58,5km"}, "c"),
    ],
)
def test_search_and_listings_take_the_same_filters(
    server, asked: dict[str, str], expected: str
) -> None:
    body = {"terms": [{"text": "a cat"}], "index": "photos", **asked}
    hits = server.client.post("/v1/search", json=body).json()["hits"]
    assert names(hits) == expected
    assert names(get(server, "/v1/items", sort="name", **asked)["items"]) == expected
    timeline = get(server, "/v1/indexes/photos/timeline", **asked)
    assert timeline["total"] == len(expected)


def test_photo_filters_join_filters_of_columns(server) -> None:
    filters = json.dumps([{"column": "camera", "op": "is_null"}])
    items = get(server, "/v1/items", filters=filters, near="48.14,11.58,5km")["items"]
    assert names(items) == "c"


def test_items_are_paged_by_the_time_at_which_they_were_taken(server) -> None:
    assert names(get(server, "/v1/items", sort="taken_at")["items"]) == "hbacdefg"
    descending = {"sort": "taken_at", "descending": "true"}
    assert names(get(server, "/v1/items", **descending)["items"]) == "cabhdefg"
    page = get(server, "/v1/items", limit=2, offset=2, **descending)
    assert (names(page["items"]), page["total"], page["next_offset"]) == ("bh", 8, 4)
    assert page["items"][0]["metadata"]["taken_at"] == "2023-05-04T12:00:00"


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("year", {"1889": 1, "2023": 2, "2024": 1}),
        ("month", {"1889-12": 1, "2023-05": 2, "2024-01": 1}),
        ("day", {"1889-12-31": 1, "2023-05-04": 1, "2023-05-31": 1, "2024-01-01": 1}),
    ],
)
def test_a_timeline_counts_photos(server, unit: str, expected: dict[str, int]) -> None:
    reply = get(server, "/v1/indexes/photos/timeline", unit=unit)
    assert {one["period"]: one["count"] for one in reply["periods"]} == expected
    assert list(expected) == [one["period"] for one in reply["periods"]]
    assert (reply["total"], reply["undated"], reply["unit"]) == (8, 4, unit)


def test_locations_are_cells_with_counts(server) -> None:
    reply = get(server, "/v1/indexes/photos/locations", resolution=36)
    points = [(p["latitude"], p["longitude"], p["count"]) for p in reply["points"]]
    assert points[0] == (48.145, 11.575, 2)
    assert sorted(points[1:]) == [(-16.8, -179.99, 1), (-16.8, 179.99, 1)]
    assert (reply["total"], reply["cell"], reply["has_more"]) == (4, 10, False)
    item = get(server, f"/v1/items/{reply['points'][0]['item']}")
    assert item["metadata"]["latitude"] in (48.14, 48.15)


def test_locations_of_a_part_of_the_world_may_span_the_date_line(server) -> None:
    reply = get(server, "/v1/indexes/photos/locations", bounds="-20,170,-10,-170", resolution=1)
    (point,) = reply["points"]
    assert (point["count"], abs(point["longitude"]), point["latitude"]) == (2, 180, -16.8)
    near = get(server, "/v1/indexes/photos/locations", bounds="48,11,49,12", resolution=200)
    assert sorted(point["count"] for point in near["points"]) == [1, 1]


def test_locations_of_nothing_are_empty(server) -> None:
    reply = get(server, "/v1/indexes/photos/locations", camera="nothing")
    assert (reply["points"], reply["total"]) == ([], 0)


def test_facets_have_years_months_and_cameras(server) -> None:
    columns = get(server, "/v1/indexes/photos/facets")["columns"]
    taken = columns["taken_at"]
    assert taken["years"][1:] == [{"value": "2023", "count": 2}, {"value": "2024", "count": 1}]
    assert taken["months"][1] == {"value": "2023-05", "count": 2}
    assert (taken["min"], taken["nulls"]) == ("1889-12-31T00:00:00", 4)
    assert {"value": "NIKON Z 6", "count": 1} in columns["camera"]["values"]


@pytest.mark.parametrize(
    ("path", "params", "reason"),
    [
        ("/v1/indexes/bare/timeline", {}, "--refresh-metadata"),
        ("/v1/indexes/bare/locations", {}, "--refresh-metadata"),
        ("/v1/items", {"index": "bare", "sort": "taken_at"}, "--refresh-metadata"),
        ("/v1/items", {"index": "bare", "since": "2023"}, "--refresh-metadata"),
        ("/v1/items", {"near": "48,11"}, "LATITUDE,LONGITUDE,RADIUS"),
        ("/v1/items", {"since": "soon"}, "soon"),
        ("/v1/indexes/photos/locations", {"bounds": "1,2,3"}, "south,west,north,east"),
        ("/v1/indexes/photos/locations", {"bounds": "9,2,3,4"}, "south below north"),
        ("/v1/indexes/photos/locations", {"bounds": "nan,2,3,4"}, "south below north"),
        ("/v1/indexes/photos/locations", {"resolution": 1000}, "resolution"),
        ("/v1/indexes/photos/timeline", {"unit": "week"}, "unit"),
        ("/v1/items", {"camera": "x" * 300}, "camera"),
    ],
)
def test_errors_say_what_to_do(server, path: str, params: dict[str, object], reason: str) -> None:
    reply = server.client.get(path, params=params)
    assert reply.status_code in (400, 422), reply.text
    assert reason in reply.text


def test_an_index_without_metadata_shows_no_places(tmp_path: Path) -> None:
    """An earlier run stored where photos were taken; a table gave the country of another one."""
    model = open_tiny()
    index = Index.create(tmp_path / "t.lance", model.identity)
    metadata = {"latitude": 48.14, "longitude": 11.58, "country": "X", "camera": "Canon"}
    index.append([Row("/a.jpg", metadata=metadata)], model.embed_text("a cat"))
    index.remember(MetadataChoice(True, frozenset({"country"})))
    settings = ServerSettings(indexes=(index.path,), cache_folder=tmp_path / "thumbnails")
    with running(settings, model=model) as server:
        assert get(server, "/v1/indexes/t")["reads_metadata"]
        assert get(server, "/v1/indexes/t/locations")["total"] == 1
        index.remember(MetadataChoice(False, frozenset({"country"})))
        until = time.monotonic() + 100
        while "latitude" in (described := server.client.get("/v1/indexes/t").text):
            assert time.monotonic() < until
        assert not json.loads(described)["reads_metadata"]
        assert server.client.get("/v1/indexes/t/locations").status_code == 400
        assert "latitude" not in get(server, "/v1/indexes/t/facets")["columns"]
        shown = {"country": "X", "camera": "Canon"}
        (item,) = get(server, "/v1/items")["items"]
        assert item["metadata"] == shown
        body = {"terms": [{"text": "a cat"}]}
        (hit,) = server.client.post("/v1/search", json=body).json()["hits"]
        assert hit["metadata"] == shown
        near = server.client.post("/v1/search", json={**body, "near": "48.14,11.58,5km"})
        assert near.status_code == 400
