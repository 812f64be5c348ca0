"""Columns of times: stored to the millisecond, compared, exported and imported again."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from perception_encoder.index import Index, MetadataValue, Outcome, OutcomeLog, Row
from perception_encoder.index.exchange import Layout, export_index, import_index, open_source
from perception_encoder.types import ModelIdentity

IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 4)
NOON = datetime.datetime(2024, 5, 31, 12, 30, 1, 250_000)
OLD = datetime.datetime(1889, 12, 31, 23, 59, 59)


def add(index: Index, *values: MetadataValue, name: str = "taken_at") -> dict[str, int]:
    start = index.count()
    rows = [Row(f"{start + n}.jpg", metadata={name: value}) for n, value in enumerate(values)]
    fitted, left_out = index.fit(rows)
    index.append(fitted, np.tile(np.array([1, 0, 0, 0], np.float32), (len(values), 1)))
    return dict(left_out)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "t.lance", IDENTITY)


def times(index: Index, where: str | None = None) -> list[object]:
    return [row.metadata.get("taken_at") for row in index.rows(where=where)]


def test_times_are_stored_to_the_microsecond_without_a_zone(index: Index) -> None:
    add(index, NOON.replace(microsecond=250_999), None, OLD)
    assert index.schema.field("taken_at").type == pa.timestamp("us")
    assert times(index) == [NOON.replace(microsecond=250_999), None, OLD]


def test_texts_become_times_in_a_column_of_times_and_the_reverse(index: Index) -> None:
    left_out = add(index, NOON) | add(
        index, "2024-05-31T14:30:01.250+02:00", "2024-05-31", "yesterday", 7, "0001-01-01"
    )
    assert times(index) == [NOON, NOON, datetime.datetime(2024, 5, 31), None, None, None]
    assert left_out == {"taken_at": 3}
    add(index, "a note", name="note")
    add(index, NOON, name="note")
    assert [row.metadata.get("note") for row in index.rows()][-1] == "2024-05-31T12:30:01.250000"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("taken_at >= '2024-05-31'", [NOON]),
        ("taken_at < '1900-01-01'", [OLD]),
        ("taken_at BETWEEN '2024-05-31T12:30:01' AND '2024-05-31T12:30:02'", [NOON]),
        ("taken_at IS NULL", [None]),
        ("date_part('year', taken_at) = 2024", [NOON]),
    ],
)
def test_conditions_compare_times(index: Index, where: str, expected: list[object]) -> None:
    add(index, NOON, None, OLD)
    assert times(index, where) == expected


@pytest.mark.parametrize("layout", ["parquet", "clip-retrieval", "npy"])
def test_exported_times_are_imported_as_times(index: Index, tmp_path: Path, layout: Layout) -> None:
    add(index, NOON, None, OLD)
    target = tmp_path / f"out-{layout}"
    export_index(index, target, layout)
    import_index(open_source(str(target)), tmp_path / "again.lance")
    again = Index.open(tmp_path / "again.lance")
    assert times(again) == [NOON, None, OLD]
    assert again.schema.field("taken_at").type == pa.timestamp("us")


def test_rows_as_json_lines_have_iso_8601(index: Index, tmp_path: Path) -> None:
    add(index, NOON)
    export_index(index, tmp_path / "out", "npy")
    line = (tmp_path / "out/rows.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["taken_at"] == "2024-05-31T12:30:01.250000"


def test_a_failure_keeps_its_times_for_another_try(index: Index) -> None:
    log = OutcomeLog(index.path)
    log.append([Outcome("a.jpg", "failed", reason="X", metadata={"taken_at": NOON})], "run")
    (failure,) = log.latest(["failed"])
    add(index, OLD)
    assert add(index, failure.metadata["taken_at"]) == {}
    assert times(index) == [OLD, NOON]
