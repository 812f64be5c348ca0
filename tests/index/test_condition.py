"""Conditions mean what people write, or are errors that say what is wrong."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row
from perception_encoder.index.condition_tokens import (
    MAX_CONDITION_BYTES,
    MAX_CONDITION_DEPTH,
    MAX_CONDITION_OPERATORS,
    MAX_CONDITION_TERMS,
    MAX_CONDITION_VALUES,
)
from perception_encoder.types import ModelIdentity

CAFE_NFC = unicodedata.normalize("NFC", "café")
CAFE_NFD = unicodedata.normalize("NFD", "café")
JANUARY_2023_NS = 1_672_531_200_000_000_000


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three rows, `first`, `second` and `third`, with columns of all kinds of names."""
    path = tmp_path_factory.mktemp("condition") / "t"
    made = Index.create(path, ModelIdentity("pe-nano", "0" * 16, "standard", 4))
    names = {
        "Label": "a", "label": "b", "Camera": "x", "two words": "c", "select": "d", "größe": "e",
        CAFE_NFD: "f", "it's": "g", 'in"ner': "h", "1st": "i", "a-b": "j", "?": "k", "date": "l",
        "and": "m", "null": "n", "back\\slash": "o", "line\nbreak": "p", "📷": "q", "$1": "r",
    }  # fmt: skip
    first = Row("first", width=1, mtime=JANUARY_2023_NS, metadata={**names, "n": 2**53 + 1})
    second = Row(
        f"/p/{CAFE_NFD}.png", width=2, metadata={"Label": "A", "n": 5, "price": 1.5, "sold": True}
    )
    third = Row("third", width=3, metadata={"Label": "it's ''", "n": -(2**63), "sold": False})
    made.add([first, second, third], np.eye(4, dtype=np.float32)[:3])
    return made


def found(index: Index, condition: str) -> list[str]:
    """The rows that meet it, by their numbers."""
    return sorted(str(row.width) for row in index.rows(where=condition))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ('"Label"', "a"),
        ("Label", "a"),
        ("`Label`", "a"),
        ('"label"', "b"),
        ("label", "b"),
        ("CAMERA", "x"),
        ('"camera"', "x"),
        ('"two words"', "c"),
        ("select", "d"),
        ('"größe"', "e"),
        ("größe", "e"),
        (unicodedata.normalize("NFD", "größe"), "e"),
        (CAFE_NFC, "f"),
        (f'"{CAFE_NFC}"', "f"),
        (CAFE_NFD, "f"),
        ('"it\'s"', "g"),
        ('"in""ner"', "h"),
        ("`in\"ner`", "h"),
        ('"1st"', "i"),
        ('"a-b"', "j"),
        ('"?"', "k"),
        ("date", "l"),
        ('"and"', "m"),
        ('"null"', "n"),
        ('"back\\slash"', "o"),
        ('"line\nbreak"', "p"),
        ("📷", "q"),
        ('"$1"', "r"),
    ],
)  # fmt: skip
def test_a_column_is_found_however_its_name_is_written(index: Index, name: str, value: str) -> None:
    assert found(index, f"{name} = '{value}'") == ["1"]
    assert found(index, f"{name} IN ('{value}', 'other')") == ["1"]
    assert found(index, f"{name} = 'other'") == []


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("labl = 'a'", "no column 'labl'; did you mean 'Label' or 'label'"),
        ("\"Labels\" = 'a'", "no column 'Labels'; did you mean"),
        ("`Labels` IS NULL", "no column 'Labels'"),
        ('Camera = "x"', "double quotes name a column; a text is written 'x'"),
        ("LABEL = 'a'", "could be the column 'Label' or 'label'"),
        ("1st = 'i'", "double quotes"),
        ("a.b = 1", "no column 'a'"),
        ("Label.b = 1", "a dot belongs between digits"),
        ("zzzzzz = 1", "there are: id, uri, member"),
    ],
)
def test_a_name_that_is_no_column_s_is_told_with_what_was_meant(
    index: Index, condition: str, words: str
) -> None:
    with pytest.raises(QueryError, match=words):
        found(index, condition)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("n > 4.5", ["1", "2"]),
        ("n IN (4.5, 5)", ["2"]),
        ("n BETWEEN 4.5 AND 5.5", ["2"]),
        ("n < 1e300", ["1", "2", "3"]),
        ("n = 9007199254740993", ["1"]),
        ("n = 9007199254740992", []),
        ("n = -9223372036854775808", ["3"]),
        ("n < -9223372036854775807", ["3"]),
        ("n > 9223372036854775806", []),
        ("width < 3000000000", ["1", "2", "3"]),
        ("width IN (2, 3000000000)", ["2"]),
        ("width > -3000000000 AND width < 2.5", ["1", "2"]),
        ("price > 1", ["2"]),
        ("price = 1.5", ["2"]),
        ("n = - 5", []),
        ("n - 1 = 4 AND n * 2 = 10 AND n / 2.0 = 2.5", ["2"]),
        ("sold = TRUE OR sold IS NULL", ["1", "2"]),
        ("NOT sold", ["3"]),
        ("Label = 'it''s '''''", ["3"]),
        ("Label LIKE 'it%'", ["3"]),
        ("Label ILIKE 'A'", ["1", "2"]),
        ("lower(Label) = 'a'", ["1", "2"]),
        ("Label IS NOT NULL -- all of them", ["1", "2", "3"]),
        ("width = 1 /* the first */ OR width = 3", ["1", "3"]),
        ("mtime >= TIMESTAMP '2023-01-01'", ["1"]),
        ("mtime = '2023-01-01T00:00:00'", ["1"]),
        ("mtime IN ('2023-01-01')", ["1"]),
        ("mtime IN (timestamp '2023-01-01')", ["1"]),
        ("mtime > '1678-01-01' AND mtime < '2261-12-31'", ["1"]),
        ("mtime < date '2023-01-02'", ["1"]),
        ("cast(width AS string) = '2'", ["2"]),
        ("width::string = '2'", ["2"]),
    ],
)  # fmt: skip
def test_values_are_compared_as_they_were_meant(
    index: Index, condition: str, rows: list[str]
) -> None:
    assert found(index, condition) == rows


@pytest.mark.parametrize(
    "condition",
    [
        "uri = '/p/{}.png'",
        "NOT uri <> '/p/{}.png'",
        "uri IN ('x', '/p/{}.png')",
        "NOT uri NOT IN ('x', '/p/{}.png')",
        "uri LIKE '%{}.png'",
        "NOT uri NOT LIKE '%{}.png'",
        "contains(uri, '{}')",
        "contains(lower(uri), '{}') AND width > 0",
        "width > 0 AND (ends_with(uri, '{}.png'))",
        "starts_with(uri, '/p/{}')",
        "lower(uri) = '/p/{}.png'",
    ],
)
@pytest.mark.parametrize("typed", [CAFE_NFC, CAFE_NFD])
def test_a_text_is_found_in_either_unicode_form(index: Index, condition: str, typed: str) -> None:
    assert found(index, condition.format(typed)) == ["2"]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("", "empty"),
        (" -- nothing", "empty"),
        ("n = ?", "write the value itself"),
        ("n = $1", "write the value itself"),
        ("n = :value", "write the value itself"),
        ("n = 1; n = 2", "one condition only"),
        ("n = 1)", "closes nothing"),
        ("(n = 1", "not closed"),
        ("(n = 1]", "closes nothing"),
        ("Label = 'a", "no partner"),
        ('"Label = 1', "no partner"),
        ("n = 5_000", "no number"),
        ("n = 5 foo", "no column 'foo'"),
        ("n = 5 n", "Expected"),
        ("n = 5 ORDER BY n", "no column 'ORDER'"),
        ("n = 5 LIMIT 1", "no column 'LIMIT'"),
        ("n = 0x10", "no number"),
        ("n = X'a'", "no column 'X'"),
        ("n = $$a$$", "write the value itself"),
        ("n = 9223372036854775808", "does not fit 64 bits"),
        ("n = -9223372036854775809", "does not fit 64 bits"),
        (f"n < 1{'0' * 5000}", "5001 characters"),
        (f"n < 0.{'1' * 5000}", "5002 characters"),
        ("price < 1e400", "beyond what a float64 can hold"),
        ("price = NaN", "no column 'NaN'"),
        ("price < Infinity", "no column 'Infinity'"),
        ("Label = 5", "'5' is a number, but 'Label' holds text"),
        ("Label IN ('a', 5)", "'5' is a number, but 'Label' holds text"),
        ("Label LIKE 5.5", "'5.5' is a number"),
        ("n = '5'", "'5' is text, but 'n' holds numbers"),
        ("n IN (5, 'x')", "'x' is text"),
        ("sold = 'true'", "holds TRUE and FALSE"),
        ("sold = 1", "holds TRUE and FALSE"),
        ("mtime > 5", "holds times"),
        ("mtime > '1000-01-01'", "not a time from 1678 to 2261"),
        ("mtime < timestamp '2300-01-01'", "not a time from 1678 to 2261"),
        ("mtime > cast('1000-01-01' AS timestamp)", "not a time from 1678 to 2261"),
        ("mtime > '1000-01-01'::timestamp", "not a time from 1678 to 2261"),
        ("mtime > timestamp(3) '1000-01-01'", "operator is missing"),
        ("mtime > date '99999-01-01'", "not a time from 1678 to 2261"),
        ("mtime > 'yesterday'", "not a time from 1678 to 2261"),
        ("mtime > '2023-02-30'", "2023-02-30"),
        ("n = NULL", "write IS NULL"),
        ("NULL <> n", "write IS NULL"),
        ("n NOT IN (1, NULL)", "write IS NULL"),
        ("n", "does not return a boolean"),
        ("n / 0 = 1", "Divide by zero"),
        ("regexp_match(Label, '[')", "[Rr]egular expression"),
        ("nosuch(n) = 1", "nosuch"),
        ("uri = '\udcff'", "not valid Unicode at character 8"),
        ("\udcff = 1", "not valid Unicode"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_reason(
    index: Index, condition: str, words: str
) -> None:
    with pytest.raises(QueryError, match=words) as caught:
        found(index, condition)
    assert len(str(caught.value)) < 700
    str(caught.value).encode()  # can be shown


def too_many() -> dict[str, str]:
    many = 50_000
    return {
        "values": f"n IN ({', '.join(map(str, range(MAX_CONDITION_VALUES + 2)))})",
        "bytes": f"uri = '{'x' * MAX_CONDITION_BYTES}'",
        "parentheses": "(" * many + "n = 1" + ")" * many,
        "calls": "lower(" * many + "uri" + ")" * many + " = 'x'",
        "NOTs": "NOT " * many + "sold",
        "minuses": "n = " + "- " * many + "1",
        "NOTs of parentheses": "NOT (" * many + "sold" + ")" * many,
        "sums": "n = " + "+".join(["1"] * many),
        "ISs": "n" + " IS NULL" * many,
        "joined texts": "uri = " + "||".join(["'u'"] * many),
        "comparisons": "n" + " = 1" * many,
        "BETWEENs": "n" + " BETWEEN 1 AND 2" * many,
        "INs": "n" + " IN (1)" * many,
        "terms": " OR ".join(["n = 1"] * (MAX_CONDITION_TERMS + 1)),
    }


@pytest.mark.parametrize("condition", too_many().values(), ids=too_many())
def test_a_condition_beyond_the_limits_is_refused_before_it_is_planned(
    index: Index, condition: str
) -> None:
    with pytest.raises(QueryError, match="allowed"):
        found(index, condition)


def test_conditions_at_the_limits_are_worked_out(index: Index) -> None:
    values = ", ".join(map(str, range(MAX_CONDITION_VALUES)))
    assert found(index, f"n IN ({values})") == ["2"]
    nested = "(" * MAX_CONDITION_DEPTH + "n = 5" + ")" * MAX_CONDITION_DEPTH
    assert found(index, nested) == ["2"]
    summed = " + ".join(["1"] * (MAX_CONDITION_OPERATORS - 1))
    assert found(index, f"n < {summed} AND n > 0") == ["2"]
    assert found(index, " OR ".join(["n = 5"] * MAX_CONDITION_TERMS)) == ["2"]


def test_every_way_into_the_index_reads_conditions_the_same(index: Index) -> None:
    query = np.eye(4, dtype=np.float32)[:1]
    condition = "\"Label\" = 'a'"
    assert [hit.uri for hit in index.search(query, k=3, where=condition)[0]] == ["first"]
    assert len(index.vectors(where=condition)) == 1
    assert sum(batch.num_rows for batch in index.scan(["uri"], where=condition)) == 1
    for refused in ("n = ?", "n = 1 foo", "n / 0 = 1"):
        with pytest.raises(QueryError, match="condition"):
            index.search(query, k=3, where=refused)
        with pytest.raises(QueryError, match="condition"):
            index.vectors(where=refused)


def test_thousands_of_items_can_be_asked_for_by_id_all_the_same(index: Index) -> None:
    ids = [f"{number:032x}" for number in range(MAX_CONDITION_VALUES + 1)]
    assert list(index.by_ids([*ids, Row("first").id])) == [Row("first").id]


def test_a_path_of_hostile_characters_is_found(tmp_path: Path) -> None:
    made = Index.create(tmp_path / "t", ModelIdentity("pe-nano", "0" * 16, "standard", 4))
    names = ["it's", 'a "b"', "back\\slash", "50%_", "new\nline", "-- no comment", "/* no */", "?;"]
    made.add([Row(name) for name in names], np.eye(4, dtype=np.float32)[[0] * len(names)])
    for name in names:
        quoted = name.replace("'", "''")
        assert [row.uri for row in made.rows(where=f"uri = '{quoted}'")] == [name]
