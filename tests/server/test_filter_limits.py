"""Filters beyond all bounds are refused at once; those at the edge are answered."""

import datetime
import json

import pytest
from server.serving import running
from small_models import open_tiny

from perception_encoder.index import Index, Row
from perception_encoder.index.condition import MAX_CONDITION_BYTES, MAX_CONDITION_VALUES
from perception_encoder.server import ServerSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters")
    model = open_tiny()
    index = Index.create(folder / "index.lance", model.identity)
    taken = datetime.datetime(2024, 5, 31, 12, tzinfo=datetime.UTC)
    rows = [
        Row(
            uri=f"/{n}.png", width=n, metadata={"name": "é", "size": n / 2, "ok": True, "at": taken}
        )
        for n in range(8)
    ]
    index.add(rows, model.embed_text([f"{n}" for n in range(8)]))
    with running(ServerSettings(indexes=(str(folder / "index.lance"),)), model=model) as started:
        yield started


def both(server, *filters):
    """The replies to a search and to a listing with the same filters."""
    body = {"terms": [{"text": "cat"}], "filters": list(filters)}
    yield server.client.post("/v1/search", content=json.dumps(body))
    written = json.dumps(filters)
    if len(written) < 10_000:  # a URL has its own limit
        yield server.client.get("/v1/items", params={"filters": written})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (list(range(3_000_000)), "10000"),
        (["a" * 2000] * 9000, "1048576"),
        (["a", ["b"]], ""),
    ],
)
def test_a_list_beyond_the_limits_is_refused(server, value, reason):
    column = "width" if isinstance(value[0], int) else "name"
    for reply in both(server, {"column": column, "op": "in", "value": value}):
        assert reply.status_code in (400, 422)
        assert reason in reply.text.replace(",", "")
        assert len(reply.content) < 5000


def test_lists_of_all_filters_count_together(server):
    half = {"column": "width", "op": "in", "value": list(range(MAX_CONDITION_VALUES // 2 + 1))}
    assert [reply.status_code for reply in both(server, half)] == [200]
    assert [reply.status_code for reply in both(server, half, half)] == [400]


@pytest.mark.parametrize("op", ["=", "<", "in", "contains"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("width", 2**63), ("width", -(2**63) - 1), ("width", 2**64), ("width", 10**400),
        ("width", 10**4299), ("size", 10**400), ("size", 2**63), ("missing", 10**4299),
        ("at", "0001-01-01T00:00:00+14:00"), ("at", "9999-12-31T23:59:59-14:00"),
        ("at", "1600-01-01"), ("at", "2262-04-12"), ("at", "9999-12-31"), ("at", "1677-01-01"),
        ("at", "today"), ("at", 5), ("ok", "yes"), ("ok", 2),
        ("name", "a" * (MAX_CONDITION_BYTES + 1)), ("missing" * 1000, 1), ("vector", 1),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_values_that_no_column_can_hold_are_refused(server, op, column, value):
    given = [value] if op == "in" else value
    for reply in both(server, {"column": column, "op": op, "value": given}):
        assert reply.status_code in (400, 422), reply.text[:500]
        assert len(reply.content) < 5000


@pytest.mark.parametrize(
    ("column", "value", "num"),
    [
        ("width", 2**63 - 1, 8), ("width", -(2**63), 0), ("width", 1e300, 8), ("width", -1e300, 0),
        ("width", 5e-324, 1), ("size", 2**53, 8), ("at", "1678-01-01", 0), ("at", "2261-12-31", 8),
        ("at", "2024-05-31T14:00:00.000001+02:00", 8), ("at", "2024-05-31T14:00:00+02:00", 0),
    ],
)  # fmt: skip
def test_values_at_the_edge_are_compared(server, column, value, num):
    search, items = both(server, {"column": column, "op": "<", "value": value})
    assert len(search.json()["hits"]) == len(items.json()["items"]) == num


@pytest.mark.parametrize("name", ["\0", "'; --", "`", "a\n", "%", "\u2028", "e\u0301", "?", "$1"])
def test_texts_of_any_characters_are_only_texts(server, name):
    for op, value in (("=", name), ("in", [name]), ("contains", name)):
        for reply in both(server, {"column": "name", "op": op, "value": value}):
            found = reply.json()
            assert reply.status_code == 200, found
            assert len(found.get("hits", found.get("items"))) == 8 * (name == "e\u0301")
