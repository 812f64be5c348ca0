from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.index import Index, MetadataValue, Row
from perception_encoder.types import ModelIdentity

IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 4)


def rows_with(*values: MetadataValue) -> list[Row]:
    return [Row(str(number), metadata={"x": value}) for number, value in enumerate(values)]


def vectors(count: int) -> np.ndarray:
    return np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "t.lance", IDENTITY)


@pytest.mark.parametrize(
    ("first", "later", "stored"),
    [
        ("a", (1, 2.5, True, "b", None), ["1", "2.5", "True", "b", None]),
        (7, (8, 9.0, 9.5, "9", True, 2**70, None), [8, 9, None, None, None, None, None]),
        (7, (2.0**62, 2.0**63), [2**62, None]),
        (0.5, (1, 2.25, "3", False, 2**60 + 1), [1.0, 2.25, None, None, None]),
        (True, (False, 1, "yes"), [False, None, None]),
    ],
)
def test_later_values_take_the_columns_kind_or_are_left_out(
    index: Index, first: MetadataValue, later: tuple[MetadataValue, ...], stored: list[object]
) -> None:
    index.append([Row("first", metadata={"x": first})], vectors(1))
    fitted, left_out = index.fit(rows_with(*later))
    index.append(fitted, vectors(len(fitted)))
    assert [row.metadata.get("x") for row in index.rows()][1:] == stored
    num_lost = sum(a is not None and b is None for a, b in zip(later, stored, strict=True))
    assert left_out["x"] == num_lost


def test_a_new_column_takes_a_kind_that_holds_all_of_its_first_values(index: Index) -> None:
    for name, values, stored in (
        ("numbers", [1, 2.5, None], [1.0, 2.5, None]),
        ("mixed", [1, "b", True], ["1", "b", "True"]),
        ("cut", ["a", "\ud800", "c"], ["a", None, "c"]),
    ):
        rows = [Row(f"{name}{n}", metadata={name: value}) for n, value in enumerate(values)]
        fitted, _ = index.fit(rows)
        index.append(fitted, vectors(3))
        assert [row.metadata.get(name) for row in index.rows(where=f"uri LIKE '{name}%'")] == stored


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.datetimes(),
    st.text(st.characters(codec=None)),
)


@given(st.lists(st.lists(_VALUES, min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_mixture_of_values_is_ever_refused(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[MetadataValue]]
) -> None:
    index = Index.create(tmp_path_factory.mktemp("fit") / "t.lance", IDENTITY)
    for number, values in enumerate(commits):
        rows = [Row(f"{number}-{n}", metadata={"x": value}) for n, value in enumerate(values)]
        fitted, _ = index.fit(rows)
        index.append(fitted, vectors(len(fitted)))
    assert index.count() == sum(map(len, commits))
