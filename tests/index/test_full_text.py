"""Texts of rows: what is found, its rank, and that the inverted index is kept up to date."""

import datetime
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row
from perception_encoder.index.full_text import MAX_TEXT_QUERY, MAX_TEXT_TERMS, TextQuery
from perception_encoder.index.schema import build_text
from perception_encoder.types import ModelIdentity

IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 8)

ROWS = [
    Row("/home/anna/Photos/Italy 2023/IMG_2041-beach.jpg", metadata={"caption": "a dog runs"}),
    Row("/scans/invoice_2022.PDF.png", metadata={"caption": "The invoice of Café Zürich"}),
    Row("/party/BeachParty2023.JPG"),
    Row("/tars/animals.tar", "cats/Müller's cat.webp", metadata={"keywords": "rex; to be or not"}),
    Row("/asia/海辺の犬.png", metadata={"title": "東京タワー"}),
    Row("https://example.org/a%20red%20balloon.png", metadata={"stars": 5, "camera": "Canon R6"}),
]


def unit(rows: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((rows, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "index", IDENTITY)
    index.append(ROWS, unit(len(ROWS)))
    return index


def find(index: Index, text: str, where: str | None = None) -> list[str]:
    found = index.rank_text(TextQuery.parse(text), limit=100, where=where)
    rows = index.by_row_ids([one.row_id for one in found])
    return [row.name.rpartition("/")[2] for row in rows]


def covered(index: Index) -> int:
    """Number of rows that Lance's index covers, as it says itself."""
    return lance.dataset(index.path).stats.index_stats("full_text")["num_indexed_rows"]


@pytest.mark.parametrize("is_covered", [False, True])
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("beach", ["IMG_2041-beach.jpg", "BeachParty2023.JPG"]),
        ("party", ["BeachParty2023.JPG"]),
        ("2041", ["IMG_2041-beach.jpg"]),
        ("IMG_2041-beach.jpg", ["IMG_2041-beach.jpg"]),
        ("italy", ["IMG_2041-beach.jpg"]),
        ("invoices", ["invoice_2022.PDF.png"]),  # the word's other forms
        ("running DOG", ["IMG_2041-beach.jpg"]),
        ("cafe zurich", ["invoice_2022.PDF.png"]),
        ("muller", ["Müller's cat.webp"]),
        ("animals", ["Müller's cat.webp"]),
        ("犬", ["海辺の犬.png"]),
        ("東京", ["海辺の犬.png"]),
        ("red", ["a%20red%20balloon.png"]),
        ("canon", ["a%20red%20balloon.png"]),
        ('"to be or not"', ["Müller's cat.webp"]),
        ('"not to be"', []),
        ('"dog runs" cat', ["IMG_2041-beach.jpg"]),
        ('"dog runs" "red balloon"', []),
        ("walrus", []),
    ],
)
def test_words_and_phrases_find_names_and_metadata(
    index: Index, text: str, names: list[str], is_covered: bool
) -> None:
    if is_covered:
        index.update_full_text()
        assert covered(index) == len(ROWS)
    found = find(index, text)
    assert sorted(found[: len(names)]) == sorted(names)
    if names != ["IMG_2041-beach.jpg"]:  # .jpg is a word of another name, too
        assert len(found) == len(names)


def test_more_and_rarer_words_rank_higher(index: Index) -> None:
    assert find(index, "beach dog")[0] == "IMG_2041-beach.jpg"
    assert find(index, "beach party")[0] == "BeachParty2023.JPG"
    first, second = index.rank_text(TextQuery.parse("beach dog"), limit=9)
    assert first.score > second.score > 0


def test_a_decomposed_name_is_found_by_the_composed_word(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IDENTITY)
    index.append([Row("/a/Zu\u0308rich.png")], unit(1))
    assert find(index, "Zürich") == find(index, "Zu\u0308rich") == ["Zu\u0308rich.png"]


def test_a_condition_limits_the_rows(index: Index) -> None:
    assert find(index, "beach", where="uri LIKE '/party/%'") == ["BeachParty2023.JPG"]
    assert find(index, "beach", where="stars = 5") == []
    with pytest.raises(QueryError, match="there is no column 'nothing'"):
        find(index, "beach", where="nothing = 5")
    with pytest.raises(QueryError, match="_text"):
        find(index, "beach", where="_text = 'a'")


def test_rows_are_found_as_soon_as_they_are_written(index: Index) -> None:
    index.update_full_text()
    index.append([Row("/new/walrus.png")], unit(1))
    assert find(index, "walrus") == ["walrus.png"]
    index.add([Row("/new/walrus.png", metadata={"caption": "seal"})], unit(1))
    assert find(index, "seal walrus") == ["walrus.png"]
    index.delete([Row("/new/walrus.png").id])
    assert find(index, "seal walrus") == []
    assert covered(index) == len(ROWS)  # all of that without touching the inverted index


def test_optimizing_covers_all_rows_and_changes_no_result(index: Index) -> None:
    index.append([Row(f"/many/walrus {number}.png") for number in range(20)], unit(20))
    before = [find(index, text) for text in ("beach", "walrus", '"walrus 7"')]
    index.optimize(older_than=datetime.timedelta(0))
    assert covered(index) == index.count()
    assert not index.needs_full_text()
    assert [find(index, text) for text in ("beach", "walrus", '"walrus 7"')] == before


def test_a_run_of_many_rows_leads_to_an_update(index: Index) -> None:
    assert not index.needs_full_text()
    index.append([Row(f"/many/{number}.png") for number in range(1100)], unit(1100))
    assert index.needs_full_text()
    index.update_full_text()
    assert not index.needs_full_text()
    assert covered(index) == index.count()


def test_texts_follow_changes_of_metadata(index: Index) -> None:
    (fragment,) = index.fragments()
    ids = [row.id for row in ROWS[:1]]
    index.replace_columns(fragment.id, pa.table({"id": ids, "caption": ["a walrus"]}))
    assert find(index, "walrus") == ["IMG_2041-beach.jpg"]
    assert find(index, "dog") == []


def test_optimizing_follows_what_other_programs_changed(index: Index) -> None:
    dataset = lance.dataset(index.path)
    dataset.update({"caption": "'a zebra'"}, where="uri LIKE '%invoice%'")
    index.refresh()
    index.optimize()
    assert find(index, "zebra") == ["invoice_2022.PDF.png"]
    assert find(index, "zurich") == []


def test_an_index_of_before_says_what_to_do_and_is_prepared(index: Index) -> None:
    dataset = lance.dataset(index.path)
    dataset.drop_columns(["_text"])
    index.refresh()
    with pytest.raises(QueryError, match="pe optimize"):
        find(index, "beach")
    index.append([Row("/new/beach.png")], unit(1))
    assert index.needs_full_text()
    index.optimize()
    assert sorted(find(index, "beach")) == ["BeachParty2023.JPG", "IMG_2041-beach.jpg", "beach.png"]
    assert {row.uri for row in index.rows()} == {row.uri for row in ROWS} | {"/new/beach.png"}


def test_the_text_is_hidden(index: Index) -> None:
    assert "_text" not in index.schema.names
    assert all("_text" not in row.metadata for row in index.rows())
    assert all("_text" not in hit.metadata for hit in index.search(unit(1), k=9)[0])


def test_an_empty_index_has_no_hits(tmp_path: Path) -> None:
    assert find(Index.create(tmp_path / "empty", IDENTITY), "dog") == []
    assert find(Index.open_or_prepare(tmp_path / "none", IDENTITY), "dog") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no word"),
        ("?! --- _", "has no word"),
        ('""', "has no word"),
        ("x" * (MAX_TEXT_QUERY + 1), "1,000 is the limit"),
        ("x " * (MAX_TEXT_TERMS + 1), "32 is the limit"),
        ("half \ud800", "not valid Unicode at character 6"),
    ],
)
def test_queries_that_cannot_be_searched_for_are_refused(text: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        TextQuery.parse(text)


def test_quotes_make_phrases_and_an_open_one_ends_with_the_text() -> None:
    assert TextQuery.parse('dog "red ball" cat') == TextQuery(("dog", "cat"), ("red ball",))
    assert TextQuery.parse('"red ba') == TextQuery((), ("red ba",))
    assert TextQuery.parse("-dog OR (cat) title:x*") == TextQuery(
        ("-dog", "OR", "(cat)", "title:x*")
    )


HARMLESS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.create(tmp_path_factory.mktemp("shared") / "index", IDENTITY)
    index.append(ROWS, unit(len(ROWS)))
    return index


@given(HARMLESS)
def test_no_text_is_a_query_language(shared: Index, text: str) -> None:
    try:
        query = TextQuery.parse(text)
    except QueryError:
        return
    assert len(shared.rank_text(query, limit=100)) <= len(ROWS)


@given(HARMLESS, HARMLESS)
def test_every_row_has_a_text_of_bounded_length(name: str, caption: str) -> None:
    text = build_text(Row(f"/a/{name}", metadata={"caption": caption * 1000}))
    assert len(text) <= 40_000
    text.encode()
