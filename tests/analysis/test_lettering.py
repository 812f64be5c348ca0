import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.analysis.drawing import TextLayout


def test_english_is_drawn_by_the_font_that_is_always_there() -> None:
    lettering = TextLayout('A "red" heart, 100% & <more> … it’s', 20)
    assert lettering.font.getname()[0] == "Aileron"
    assert lettering.text == 'A "red" heart, 100% & <more> … it’s'


def test_other_letters_are_never_drawn_as_empty_boxes() -> None:
    for text in ("café", "Ελλάδα", "Кот", "日本の寺", "😀"):
        lettering = TextLayout(text, 20)
        box = bytes(lettering.font.getmask("\U0010fffd"))
        assert all(bytes(lettering.font.getmask(sign)) != box for sign in lettering.text)


def test_without_system_fonts_accents_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.analysis.drawing._SYSTEM_FONTS", ())
    assert TextLayout("un café à Zürich", 20).text == "un cafe a Zurich"
    assert TextLayout("Кот", 20).text == "???"


@pytest.mark.parametrize("width", [80, 200])
def test_lines_break_at_spaces_and_lose_no_word(width: int) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lettering = TextLayout(text, 16)
    lines = lettering.lines(width, 20)
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert all(lettering.width(line) <= width for line in lines)


def test_a_long_word_is_broken_where_the_line_ends() -> None:
    lettering = TextLayout("a" * 100, 16)
    assert "".join(lettering.lines(100, 20)) == "a" * 100


def test_what_does_not_fit_ends_in_an_ellipsis() -> None:
    lettering = TextLayout("word " * 5000, 16)
    lines = lettering.lines(100, 2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert lettering.width(lines[1]) <= 100


def test_a_long_name_keeps_its_beginning_and_end() -> None:
    lettering = TextLayout(f"holiday{'_x' * 2000}_0001.jpg", 16)
    short = lettering.shortened(150)
    assert short.startswith("holiday")
    assert short.endswith("0001.jpg")
    assert "…" in short
    assert lettering.width(short) <= 150
    assert TextLayout("a.jpg", 16).shortened(150) == "a.jpg"


@given(st.text(), st.integers(1, 300))
def test_any_text_can_be_set(text: str, width: int) -> None:
    lettering = TextLayout(text, 12)
    for part in [*lettering.lines(width, 3), lettering.shortened(width)]:
        lettering.font.getmask(part)


def test_control_characters_and_broken_names_are_dropped() -> None:
    assert TextLayout("a\0b\n c\udce9\u202e\td", 12).text == "ab c d"
