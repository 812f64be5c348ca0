"""Large texts: only the beginning is worked on, and there is a limit."""

from collections import Counter

import ftfy
import numpy as np
import pytest
from small_models import CONTEXT_LENGTH, TOKENIZER, open_tiny

from perception_encoder.analysis.classifiers import Prompts
from perception_encoder.errors import TextTooLargeError
from perception_encoder.preprocess import tokenizer as cleaning
from perception_encoder.preprocess.tokenizer import MAX_TEXT_BYTES, SEGMENT


@pytest.fixture
def repaired(monkeypatch) -> list[int]:
    """The lengths of what was repaired."""
    lengths: list[int] = []
    fix = ftfy.fix_text

    def fix_text(text, *args, **kwargs):
        lengths.append(len(text))
        return fix(text, *args, **kwargs)

    monkeypatch.setattr(ftfy, "fix_text", fix_text)
    return lengths


@pytest.fixture
def num_repairs(monkeypatch) -> Counter[str]:
    """How often ftfy looked at a line, or at several as one."""
    counts = Counter[str]()
    fix = ftfy.fix_and_explain

    def fix_and_explain(*args):
        counts["repairs"] += 1
        return fix(*args)

    monkeypatch.setattr(ftfy, "fix_and_explain", fix_and_explain)
    return counts


@pytest.mark.parametrize(
    "fragment",
    ["\u0301\u0323\u0327\u0315", "é", "漢字", "Ã©", "é \n", "&amp;", "<é", "\ud800", "😂"],
)
def test_only_the_beginning_of_a_large_text_is_repaired(repaired, fragment):
    text = "cat " + fragment * (MAX_TEXT_BYTES // len(fragment.encode("utf-8", "replace")) // 4)
    row = TOKENIZER(text)[0].tolist()
    assert (row[0], row[-1], len(row)) == (TOKENIZER.start_id, TOKENIZER.end_id, CONTEXT_LENGTH)
    assert row[1] == TOKENIZER("cat")[0][1]
    assert sum(repaired) <= SEGMENT
    assert TOKENIZER.find_truncated(text) == [True]


@pytest.mark.parametrize("nothing", [" ", "\n", "\0", "\u0345", "\ufeff", "\x1b[0m", "&#32;"])
def test_words_after_much_that_is_no_word_are_found(nothing):
    num = MAX_TEXT_BYTES // len(nothing.encode()) // 8
    text = nothing * num + " cat " + nothing * num
    assert TOKENIZER(text).tolist() == TOKENIZER("cat").tolist()
    assert TOKENIZER.find_truncated(text) == [False]


@pytest.mark.parametrize("line", ["\n", "\0\n", "\ufeff\n", " \t\r\n"])
def test_lines_without_words_are_not_repaired_one_by_one(num_repairs, line):
    text = line * (MAX_TEXT_BYTES // len(line.encode()) // 2) + "cat"
    assert TOKENIZER(text).tolist() == TOKENIZER("cat").tolist()
    assert num_repairs["repairs"] <= len(text) // SEGMENT + 1


def test_an_entity_of_more_digits_than_python_reads_is_a_text_like_others():
    row = TOKENIZER("cat &#" + "9" * 5000 + "; cat")[0]
    assert row[1] == TOKENIZER("cat")[0][1]


def test_a_text_is_refused_only_above_the_limit():
    model = open_tiny()
    whole = model.embed_text("cat ")
    np.testing.assert_array_equal(model.embed_text("cat" + " " * (MAX_TEXT_BYTES - 3)), whole)
    for text in ("a" * (MAX_TEXT_BYTES + 1), "é" * (MAX_TEXT_BYTES // 2 + 1), "𝔠" * MAX_TEXT_BYTES):
        with pytest.raises(TextTooLargeError, match=r"text 1: .* the limit is 1,048,576") as caught:
            model.embed_text(["cat", text])
        assert caught.value.position == 1


def test_nothing_of_a_text_above_the_limit_is_cleaned(monkeypatch):
    monkeypatch.setattr(cleaning, "_repaired", None)
    with pytest.raises(TextTooLargeError):
        TOKENIZER.find_truncated("é" * (60 << 20))


@pytest.mark.parametrize(
    ("label", "template"),
    [("a" * (MAX_TEXT_BYTES + 1), "{}"), ("a" * 2**19, "{} {} {}"), ("a" * 1000, "{}" * 2**17)],
)
def test_a_prompt_that_would_be_too_large_is_never_made(label, template):
    with pytest.raises(TextTooLargeError, match="label 'aaa"):
        Prompts.of(["cat", label], [template])
