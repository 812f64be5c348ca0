import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import QueryError
from perception_encoder.search.grammar import (
    STDIN,
    QueryTerm,
    combine_vectors,
    parse_image,
    parse_query,
)


def text(value: str, weight: float = 1.0) -> QueryTerm:
    return QueryTerm(weight, "text", value)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pool.jpg"
    path.write_bytes(b"")
    return path


@pytest.mark.usefixtures("pool")
def test_the_example_of_the_manual_reads_the_same_as_arguments_and_as_one_string() -> None:
    expected = (text("golden retriever", 2), QueryTerm(1, "image", "pool.jpg"), text("fruit", -1))
    assert parse_query(["2:golden retriever", "+", "pool.jpg", "-", "fruit"]) == expected
    assert parse_query('"2:golden retriever" + pool.jpg - fruit') == expected
    assert parse_query(['2:"golden retriever" + pool.jpg - fruit']) == expected
    assert parse_query("2:golden retriever + pool.jpg - fruit") == expected


@pytest.mark.parametrize(
    "words",
    [
        "a t-shirt",
        "C++ code",
        "black-and-white photo",
        "dog's bowl",
        '13" laptop',
        "rock'n'roll",
        "3+4",
        "16:9 monitor",
        "half past 12:30",
        "日本の寺",
        "see http://example.org/a",
        "me@home",
        "@ home",
        "@",
        "5",
    ],
)
def test_words_with_signs_inside_are_one_text(words: str) -> None:
    assert parse_query(words) == (text(words),)
    assert parse_query(words.split()) == (text(words),)


def test_words_given_as_arguments_become_one_text() -> None:
    assert parse_query(["red", "heart"]) == (text("red heart"),)
    assert parse_query(["red", "heart", "+", "blue", "sky"]) == (
        text("red heart"),
        text("blue sky"),
    )


def test_signs_inside_one_of_several_arguments_are_words() -> None:
    assert parse_query(["a - b", "+", "c"]) == (text("a - b"), text("c"))


def test_signs_inside_double_quotes_are_words() -> None:
    assert parse_query('"a + b - c" - "+"') == (text("a + b - c"), text("+", -1))


@pytest.mark.parametrize(
    "query", ["-fruit", "- fruit", " - fruit", ["-", "fruit"], ["-fruit"], "-1:fruit", "- 1:fruit"]
)
def test_a_leading_minus_asks_for_what_is_unlike(query: str | list[str]) -> None:
    assert parse_query(query) == (text("fruit", -1),)


def test_a_leading_minus_counts_among_several_arguments() -> None:
    assert parse_query(["-fruit", "+", "dog"]) == (text("fruit", -1), text("dog"))


@pytest.mark.parametrize(
    ("query", "weight"),
    [("0.5:dog", 0.5), (".5:dog", 0.5), ("2.:dog", 2), ("+3:dog", 3), ("cat - 2:dog", -2),
     ("cat + -2:dog", -2), ("2: dog", 2), ("0:dog", 0)],
)  # fmt: skip
def test_weights_multiply_a_term(query: str, weight: float) -> None:
    assert parse_query(query)[-1] == text("dog", weight)


def test_an_existing_file_is_an_image_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / 'a - "b" + c'
    odd.write_bytes(b"")
    assert parse_query(str(odd)) == (QueryTerm(1, "image", str(odd)),)
    assert parse_query([str(odd), "-", "dog"])[0] == QueryTerm(1, "image", str(odd))


@pytest.mark.usefixtures("pool")
def test_a_weight_before_an_image_whose_name_begins_with_a_digit(tmp_path: Path) -> None:
    (tmp_path / "001.png").write_bytes(b"")
    assert parse_query("2:001.png") == (QueryTerm(2, "image", "001.png"),)


def test_the_home_folder_is_filled_in(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pool.parent))
    assert parse_query("dog + ~/pool.jpg")[1] == QueryTerm(1, "image", str(pool))


def item(value: str, weight: float = 1.0) -> QueryTerm:
    return QueryTerm(weight, "item", value)


def image(value: str, weight: float = 1.0) -> QueryTerm:
    return QueryTerm(weight, "image", value)


def test_an_at_sign_before_a_term_means_an_item_of_the_index() -> None:
    assert parse_query("@cat.webp") == (item("cat.webp"),)
    assert parse_query(["@my cat.webp", "+", "red"]) == (item("my cat.webp"), text("red"))
    assert parse_query("2:@a/cat.webp - @00ff") == (item("a/cat.webp", 2), item("00ff", -1))
    assert parse_query("@my cat.webp + red") == (item("my cat.webp"), text("red"))


def test_an_at_sign_in_double_quotes_is_a_letter() -> None:
    assert parse_query('"@home" + red') == (text("@home"), text("red"))
    assert parse_query('2:"@home"') == (text("@home", 2),)


@pytest.mark.parametrize(
    "address",
    ["http://example.org/a", "HTTPS://example.org/a.jpg?b=c+d&e=-1#f", "https://[::1]:8/x"],
)
def test_a_web_address_is_an_image(address: str) -> None:
    assert parse_query(address) == (image(address),)
    assert parse_query(["dog", "-", f"0.5:{address}"]) == (text("dog"), image(address, -0.5))


def test_a_minus_alone_is_the_image_on_stdin() -> None:
    assert parse_query("-") == parse_query(["-"]) == (image(STDIN),)


@pytest.mark.usefixtures("pool")
def test_one_image_is_read_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "@a - b"
    odd.write_bytes(b"")
    assert parse_image(str(odd)) == image(str(odd))
    assert parse_image("@a - b") == image("@a - b")
    assert parse_image("@c - d") == item("c - d")
    assert parse_image("http://h/a") == image("http://h/a")
    assert parse_image("-") == image(STDIN)
    with pytest.raises(QueryError, match=r"none\.jpg: no such file"):
        parse_image("none.jpg")


@pytest.mark.usefixtures("pool")
def test_a_folder_of_that_name_does_not_turn_a_word_into_an_image(tmp_path: Path) -> None:
    (tmp_path / "dogs").mkdir()
    assert parse_query("dogs") == (text("dogs"),)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ([], "empty"),
        (["", " "], "empty"),
        ("dog +", r"character 5 .*'\+' needs a text"),
        ("dog + - cat", "character 7 "),
        ("dog - + cat", "character 7 "),
        ("+", "character 1 "),
        (["dog", "-"], "character 5 "),
        ('dog + "cat', "quote at character 7 "),
        ('dog + "cat"s', "quote at character 7 "),
        ('2:"cat', "quote at character 1 "),
        ("dog + 2:", "character 7 .*no text or image"),
        ('""', "no text or image"),
        (f"{'9' * 400}:dog", "weight is too large"),
        ("dog - missing.JPG", "character 7 .*no image missing.JPG"),
        ("2:missing.webp", "no image missing.webp"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    query: str | list[str], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        parse_query(query)


@given(st.text() | st.lists(st.text()))
def test_any_input_is_read_or_refused(query: str | list[str]) -> None:
    try:
        terms = parse_query(query)
    except QueryError:
        return
    assert terms
    assert all(term.value for term in terms)


@given(st.lists(st.sampled_from(["dog", "t-shirt", "red car", "C++"]), min_size=1), st.data())
def test_every_sum_written_out_is_read_back(words: list[str], data: st.DataObject) -> None:
    signs = [data.draw(st.sampled_from("+-")) for _ in words]
    parts = [part for pair in zip(signs, words, strict=True) for part in pair]
    expected = tuple(text(w, 1.0 if s == "+" else -1.0) for s, w in zip(signs, words, strict=True))
    assert parse_query(parts) == expected
    assert parse_query(" ".join(parts)) == expected


@pytest.mark.parametrize("embed_dim", [2, 7])
def test_combined_terms_are_a_unit_vector_in_their_direction(embed_dim: int) -> None:
    vectors = np.eye(embed_dim, dtype=np.float32)[:2]
    combined = combine_vectors(vectors, [3.0, -4.0])
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined[:2], [0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(combined[2:], 0)


def test_terms_that_cancel_out_are_refused() -> None:
    vectors = np.array([[0.6, 0.8], [0.6, 0.8]], np.float32)
    for weights in ([1, -1], [0, 0]):
        with pytest.raises(QueryError, match="cancel"):
            combine_vectors(vectors, weights)


def test_combining_needs_one_weight_for_each_vector() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3,\)"):
        combine_vectors(np.eye(2, dtype=np.float32), [1, 2, 3])


def test_paths_are_kept_as_written(pool: Path) -> None:
    relative = os.path.join(".", pool.name)
    assert parse_query(relative)[0].value == relative


@pytest.mark.parametrize(
    "query", ["data:;base64,iVBORw0KGgo=", "a cat + 'data:image/png;base64,iVBOR'", "data:,x"]
)
def test_an_encoded_image_is_no_text(query: str) -> None:
    with pytest.raises(QueryError, match="of an image, not a text"):
        parse_query(query)


def test_texts_about_data_are_texts() -> None:
    assert parse_query("data: a graph") == (QueryTerm(1.0, "text", "data: a graph"),)


@pytest.mark.parametrize("query", ["a\0", "\0", "@a\0", "2:\0", "~\0", "x\0.png", "http://h/\0"])
def test_a_nul_is_an_error_that_says_where(query: str) -> None:
    for read in (parse_query, parse_image):
        with pytest.raises(QueryError, match=f"NUL at character {query.index(chr(0)) + 1}"):
            read(query)


@pytest.mark.parametrize("query", ["a\ud800", "\udcff", "@a\udcff", "cat + \udfff", "-\ud800"])
def test_half_a_pair_is_an_error_and_no_text(query: str) -> None:
    with pytest.raises(QueryError, match="not valid Unicode at character"):
        parse_query(query)


def test_a_file_whose_name_is_no_unicode_is_an_image_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(name).write_bytes(b"")
    assert parse_query(name) == (QueryTerm(1.0, "image", name),)
    assert parse_image(name) == QueryTerm(1.0, "image", name)


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_a_file_is_found_in_whichever_unicode_form_it_was_typed(
    tmp_path: Path, typed: str, stored: str
) -> None:
    path = str(tmp_path / unicodedata.normalize(stored, "café.png"))
    Path(path).write_bytes(b"")
    name = str(tmp_path / unicodedata.normalize(typed, "café.png"))
    expected = QueryTerm(1.0, "image", path)
    assert parse_query(name) == (expected,)
    assert parse_image(name) == expected
    assert parse_query(f"{name} + cat")[0] == expected
    assert parse_query([name, "-", "cat"])[0] == expected


def test_a_long_query_is_told_in_short() -> None:
    with pytest.raises(QueryError, match="the weight is too large") as caught:
        parse_query(f"{'9' * 5000}:cat")
    assert len(str(caught.value)) < 300


@pytest.mark.usefixtures("pool")
def test_a_part_of_an_image_is_written_after_its_name() -> None:
    for written in ("pool.jpg#xywh=1,2,3,4", "pool.jpg#xywh=percent:1,2,3,4"):
        assert parse_query(f"dog + 2:{written}")[1] == QueryTerm(2, "image", written)
        assert parse_image(written) == QueryTerm(1, "image", written)
    for written in ("https://x.org/a#xywh=1,2,3,4", "https://x.org/a.png#t=1&xywh=1,2,3,4"):
        assert parse_query(written) == (QueryTerm(1, "image", written),)
    assert parse_query("@pool.jpg#xywh=1,2,3,4") == (item("pool.jpg#xywh=1,2,3,4"),)


def test_a_part_of_a_frame_has_a_time_and_a_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.mp4").write_bytes(b"")
    for written in ("film.mp4#t=4&xywh=1,2,3,4", "film.mp4#xywh=1,2,3,4&t=1:04", "film.mp4#t=4"):
        assert parse_query(written) == (QueryTerm(1, "image", written),)


@pytest.mark.usefixtures("pool")
def test_a_part_begins_a_sum_in_one_string() -> None:
    assert parse_query("pool.jpg#xywh=1,2,3,4 + red") == (
        QueryTerm(1, "image", "pool.jpg#xywh=1,2,3,4"),
        text("red"),
    )


@pytest.mark.usefixtures("pool")
def test_a_file_whose_own_name_looks_like_a_part_opens(tmp_path: Path) -> None:
    (tmp_path / "pool.jpg#xywh=bad").write_bytes(b"")
    assert parse_query("pool.jpg#xywh=bad") == (QueryTerm(1, "image", "pool.jpg#xywh=bad"),)


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("pool.jpg#xywh=1,2", "is not a box"),
        ("pool.jpg#xywh=1,2,0,4", "above 0"),
        ("dog + pool.jpg#xywh=-1,2,3,4", "negative"),
        ("https://x.org/a.png#xywh=nan,2,3,4", "finite"),
        ("gone.jpg#xywh=1,2,3,4", "there is no image gone.jpg"),
        ("gone.jpg#xywh=1,2", "there is no image gone.jpg"),
    ],
)
def test_a_wrong_part_is_an_error_not_a_text(query: str, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        parse_query(query)


def test_words_with_a_number_sign_stay_words() -> None:
    for words in ("the #1 dog", "what is #xywh=1,2,3,4", "a #xywh=bad"):
        assert parse_query(words) == (text(words),)
