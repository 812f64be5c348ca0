"""Any filter of a request is an error of ours or a condition that finds the right rows."""

import datetime
import operator
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row
from perception_encoder.index.condition import forms_of
from perception_encoder.server.core.filters import Filter, build_condition, list_column_kinds
from perception_encoder.types import ModelIdentity

TIME: Final = datetime.datetime(2024, 5, 31, 12, tzinfo=datetime.UTC)
NAMES: Final = ("", "a", "A", "é", "e\u0301", "it's", "'", "%", "_", "\\", "`", '"', "?", "$1")
ROWS: Final[list[dict[str, Any]]] = [
    {"name": name, "number": number, "size": number / 3, "ok": number % 2 == 0, "at": TIME}
    for number, name in enumerate(NAMES)
]
VALUES: Final = st.one_of(
    st.sampled_from(NAMES), st.text(max_size=5), st.integers(-3, 20), st.integers(), st.booleans(),
    st.sampled_from((2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**400, 10**5000)),
    st.floats(), st.none(), st.datetimes().map(str),
    st.datetimes(timezones=st.timezones()).map(str),
)  # fmt: skip
FILTERS: Final = st.builds(
    Filter,
    st.sampled_from([*ROWS[0], "vector", "missing", "id"]) | st.text(max_size=3),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in", "contains", "is_null", "has"]),
    VALUES | st.lists(VALUES, max_size=4),
)
COMPARISONS: Final = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    made = Index.create(
        tmp_path_factory.mktemp("fuzz") / "t", ModelIdentity("pe-nano", "0" * 16, "standard", 4)
    )
    rows = [Row(f"r{row['number']}", metadata=row) for row in ROWS]
    made.add(rows, np.tile(np.array([1, 0, 0, 0], np.float32), (len(rows), 1)))
    return made


def found(index: Index, filters: list[Filter]) -> list[int] | None:
    """The numbers of the rows that meet all filters; None where the filters are refused."""
    try:
        where = build_condition(filters, list_column_kinds(index.schema))
        batches = list(index.scan(["number"], where=where))
    except QueryError:
        return None
    return sorted(number for batch in batches for number in batch["number"].to_pylist())


@given(st.lists(FILTERS, max_size=3))
def test_any_filters_are_refused_or_answered(index, filters):
    found(index, filters)


@given(st.sampled_from(sorted(COMPARISONS)), st.integers() | st.floats() | st.integers(-3, 20))
def test_numbers_are_compared_by_value(index, op, value):
    for column in ("number", "size"):
        numbers = found(index, [Filter(column, op, value)])
        fits = -(2**63) <= value < 2**63 if isinstance(value, int) else np.isfinite(value)
        assert (numbers is not None) == fits
        if fits:
            expected = [row["number"] for row in ROWS if COMPARISONS[op](row[column], value)]
            assert numbers == expected


@given(st.lists(st.sampled_from(NAMES) | st.text(max_size=3), min_size=1, max_size=4))
def test_texts_are_compared_by_what_they_say(index, values):
    forms = {form for value in values for form in forms_of(value)}
    expected = [row["number"] for row in ROWS if row["name"] in forms]
    assert found(index, [Filter("name", "in", values)]) == expected
    forms = set(forms_of(values[0].lower()))
    expected = [row["number"] for row in ROWS if any(one in row["name"].lower() for one in forms)]
    assert found(index, [Filter("name", "contains", values[0])]) == expected
