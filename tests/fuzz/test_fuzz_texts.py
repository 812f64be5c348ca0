"""Any text is numbered in bounded time, and as the whole text would be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.preprocess import vocabulary
from perception_encoder.preprocess.tokenizer import SEGMENT, Tokenizer, clean, clean_beginning


def clip(context_length: int) -> Tokenizer:
    path = vocabulary.installed_vocabulary()
    assert path is not None, "the tests need CLIP's vocabulary: `make install` installs it"
    return Tokenizer(vocabulary.read_vocabulary(path), context_length)


TOKENIZERS = {length: clip(length) for length in (8, 77)}

PLAIN = (
    "a", "ab ", "word ", "Ünïcödé ", "e\u0301", "漢字", "かな ", "한글", "İ", "ß", "7", "12,5 ",
    "!", "...", "it's ", "'ll", "😂", "👍🏽 ", " ", "\t", "-", "don't", "<b>", "x" * 40,
)  # fmt: skip
ODD = (
    "&amp;", "&lt;", "&amp;lt;", "&amp;amp;lt;", "&EACUTE;", "&#65;", "&#x41", "&#9999999999;", "&",
    "Ã©", "â€™", "Ã ", "\xa0", "\u0345", "\ufeff", "\0", "\x1b[31m", "\x1b", "\r", "\u2028", "“",
    "ﬁ", "ＦＷ", "\ud800", "\ud83d\ude00", "\u1112\u1161\u11ab", "<start_of_text>", "\u200d", "�",
)  # fmt: skip


@st.composite
def texts(draw, fragments):
    """Short fragments repeated, about two segments of them."""
    parts = draw(st.lists(st.tuples(fragments, st.integers(1, SEGMENT)), min_size=1, max_size=6))
    longest = 2 * SEGMENT // len(parts)
    return "".join(fragment * min(count, longest // len(fragment)) for fragment, count in parts)


def in_lines(text: str, length: int) -> str:
    return "\n".join(text[start : start + length] for start in range(0, len(text), length))


def row_of_all(text: str) -> list[int]:
    tokenizer = TOKENIZERS[77]
    cleaned = clean(text)
    ids = tokenizer._pipeline.encode(cleaned, add_special_tokens=False).ids
    return [tokenizer.start_id, *(tokenizer._spelled(cleaned) or ids), tokenizer.end_id]


def assert_as_whole(text: str) -> None:
    whole = row_of_all(text)
    for length, tokenizer in TOKENIZERS.items():
        np.testing.assert_array_equal(tokenizer(text), tokenizer.pad([whole]))
        assert tokenizer.find_truncated(text) == [len(whole) > length]


@given(
    texts(st.sampled_from(PLAIN + ODD) | st.text(min_size=1, max_size=8)),
    st.integers(1, SEGMENT - 1),
)
def test_a_text_of_lines_is_numbered_as_a_whole(text, length):
    assert_as_whole(in_lines(text, length))


@given(texts(st.sampled_from(PLAIN)))
def test_a_long_line_is_numbered_as_a_whole(text):
    assert_as_whole(text)


@given(texts(st.sampled_from(ODD) | st.text(min_size=1, max_size=8)), st.integers(1, 5000))
def test_no_more_is_cleaned_than_is_wanted(text, enough):
    cleaned = clean_beginning(text, enough)
    assert cleaned == " ".join(cleaned.split())
    # A part of one segment may grow (a ligature has three letters); nothing comes after enough.
    assert len(cleaned) <= enough + 3 * SEGMENT + len(text) // SEGMENT or len(text) <= SEGMENT
