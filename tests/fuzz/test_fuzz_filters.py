"""Any condition is an error of ours or finds the right rows."""

import operator
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row
from perception_encoder.index.condition import forms_of
from perception_encoder.types import ModelIdentity

Value = str | int | float | bool | None
Evaluate = Callable[[dict[str, Value]], bool | None]

TEXTS: Final = ["a", "B", "caf\u00e9", "cafe\u0301", "it's", "%", "\\", '"', "", "1"]
NUMBERS: Final = [-(2**63), -(2**31) - 1, -1, 0, 1, 5, 2**31, 2**53 + 1, 2**63 - 1]
FLOATS: Final = [-1e300, -0.5, 0.0, 0.5, 1.0, 2.5, 1e300]
COLUMNS: Final[dict[str, list[Any]]] = {
    "Label": TEXTS,
    "two words": TEXTS,
    "gr\u00f6\u00dfe": FLOATS,
    "number": NUMBERS,
    "flag": [True, False],
}
COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq, "==": operator.eq, "<>": operator.ne, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def made_rows() -> list[dict[str, Value]]:
    random = np.random.default_rng(0)
    rows: list[dict[str, Value]] = []
    for number in range(60):
        row: dict[str, Value] = {"width": number}
        for name, values in COLUMNS.items():
            choice = int(random.integers(-1, len(values)))
            row[name] = None if choice < 0 else values[choice]
        rows.append(row)
    return rows


ROWS: Final = made_rows()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    path = tmp_path_factory.mktemp("fuzz") / "t"
    made = Index.create(path, ModelIdentity("pe-nano", "0" * 16, "standard", 4))
    rows = [
        Row(
            f"r{row['width']}",
            width=int(row["width"] or 0),
            metadata={name: value for name, value in row.items() if name != "width"},
        )
        for row in ROWS
    ]
    made.add(rows, np.eye(4, dtype=np.float32)[[0] * len(rows)])
    return made


class Condition(NamedTuple):
    """A condition as text, and what it says of a row: None where SQL does not know.

    `listed` are the columns that it compares with single values.
    """

    text: str
    holds: Evaluate
    listed: frozenset[str] = frozenset()


def literal(value: Value) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def agrees(sign: str, left: Value, right: Value) -> bool | None:
    """Compare as SQL does, texts in whatever Unicode form."""
    if left is None:
        return None
    if isinstance(right, str) and COMPARISONS[sign] is operator.eq:
        return left in forms_of(right)
    if isinstance(right, str) and COMPARISONS[sign] is operator.ne:
        return left not in forms_of(right)
    return COMPARISONS[sign](left, right)


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def joined(word: str, left: bool | None, right: bool | None) -> bool | None:
    decisive = word == "OR"
    if decisive in (left, right):
        return decisive
    return None if None in (left, right) else not decisive


names = st.sampled_from(list(COLUMNS))
spaces = st.sampled_from([" ", "\n", "  ", " /* and */ ", "\t"])


@st.composite
def written_names(draw: st.DrawFn, name: str) -> str:
    ways = [f'"{name}"', f"`{name}`", f'"{name.upper()}"']
    return draw(st.sampled_from(ways if " " in name else [*ways, name, name.upper()]))


@st.composite
def values_for(draw: st.DrawFn, name: str) -> Any:
    values = st.sampled_from(COLUMNS[name])
    if name in ("number", "gr\u00f6\u00dfe"):
        values |= st.integers(-(2**31), 2**31) | st.floats(-1000, 1000)
    return draw(values)


@st.composite
def simple(draw: st.DrawFn) -> Condition:
    name = draw(names)
    column, space = draw(written_names(name)), draw(spaces)
    kind = draw(st.sampled_from(["compare", "in", "between", "null"]))
    negative = draw(st.booleans())
    if kind == "null":
        text = f"{column}{space}IS {'NOT ' * negative}NULL"
        return Condition(text, lambda row: (row[name] is None) != negative)
    if kind == "in":
        listed = draw(st.lists(values_for(name), min_size=1, max_size=5))
        text = f"{column} {'NOT ' * negative}IN{space}({', '.join(map(literal, listed))})"

        def is_in(row: dict[str, Value]) -> bool | None:
            found = [agrees("=", row[name], value) for value in listed]
            return None if None in found else any(found) != negative

        return Condition(text, is_in, frozenset([name]))
    if kind == "between" and name != "flag":
        low, high = draw(values_for(name)), draw(values_for(name))
        text = f"{column} {'NOT ' * negative}BETWEEN {literal(low)} AND{space}{literal(high)}"

        def is_between(row: dict[str, Value]) -> bool | None:
            value: Any = row[name]
            return None if value is None else (low <= value <= high) != negative

        return Condition(text, is_between)
    sign = draw(st.sampled_from(["=", "<>"] if name == "flag" else list(COMPARISONS)))
    value = draw(values_for(name))
    return Condition(
        f"{column}{space}{sign}{space}{literal(value)}",
        lambda row: agrees(sign, row[name], value),
        frozenset([name]) if sign in ("=", "==", "<>", "!=") else frozenset(),
    )


def larger(children: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    def not_(child: Condition) -> Condition:
        return Condition(f"NOT ({child.text})", lambda row: negated(child.holds(row)), child.listed)

    def join(word: str, left: Condition, right: Condition) -> Condition:
        # DataFusion takes x NOT IN (1) OR x NOT IN (2) for true also where x is NULL.
        assume(not left.listed & right.listed)
        return Condition(
            f"({left.text}) {word} ({right.text})",
            lambda row: joined(word.upper(), left.holds(row), right.holds(row)),
            left.listed | right.listed,
        )

    words = st.sampled_from(["AND", "OR", "and", "or"])
    return st.builds(not_, children) | st.builds(join, words, children, children)


conditions = st.recursive(simple(), larger, max_leaves=6)


@given(condition=conditions)
def test_a_condition_finds_the_rows_of_which_it_is_true(index: Index, condition: Condition) -> None:
    expected = [row["width"] for row in ROWS if condition.holds(row)]
    found = [row.width for row in index.rows(where=condition.text)]
    assert found == expected, condition.text


pieces = st.sampled_from(
    [
        *"()[]<>=,.;?$:@*+-/%|'\"`\\{}&^~!#_",
        "''", '""', "--", "/*", "*/", "::", "||", "<=>", "AND", "or", "NOT", "IN", "IS", "NULL",
        "LIKE", "ILIKE", "BETWEEN", "ESCAPE", "TRUE", "AS", "DISTINCT", "FROM", "CASE", "WHEN",
        "SELECT", "CAST", "timestamp", "DATE", "interval", "int", "string", "lower", "contains",
        "abs", "Label", '"two words"', "gr\u00f6\u00dfe", "number", "flag", "uri", "mtime",
        "vector", "id", "_rowid", "nosuch", "'a'", "'2023-01-01'", "1", "0", "4.5", "1e5", "1e999",
        "9" * 30, "\0", "\ud800", "\u0301", "\u00a0", "\n", "\U0001f600",
    ]
)  # fmt: skip


@given(parts=st.lists(pieces | st.text(max_size=4), max_size=14), glue=st.sampled_from(["", " "]))
def test_any_text_is_an_error_of_ours_or_a_condition(
    index: Index, parts: list[str], glue: str
) -> None:
    try:
        rows = [row.width for row in index.rows(where=glue.join(parts))]
    except QueryError as err:
        str(err).encode()  # can be shown
    else:
        assert set(rows) <= set(range(len(ROWS)))
