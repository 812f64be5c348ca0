import html

import ftfy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perception_encoder.preprocess.tokenizer import clean


def slow_clean(text: str) -> str:
    """The original's steps for every text, without the short way for plain ones."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return " ".join(text.split()).strip().lower()


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
@example("a &amp; b \x1b[31mred\x1b[0m")
@example("tab\tnewline\r\nend\x7f")
def test_plain_texts_are_cleaned_as_the_long_way_does(text):
    assert clean(text) == slow_clean(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_cleaned_as_the_long_way_does(text):
    assert clean(text) == slow_clean(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A  photo\tof\n a CAT ", "a photo of a cat"),
        ("schÃ¶n", "schön"),
        ("itâ€™s", "it's"),
        ("“quoted”", '"quoted"'),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("a\x00b\x1b[31mc", "abc"),
        ("ΟΔΟΣ", "οδος"),
        ("İ", "i\u0307"),
        ("ẞ", "ß"),
        ("ﬁne", "fine"),
        ("ＦＵＬＬ\u3000１", "full 1"),
        ("\ud800", "\ufffd"),
        ("", ""),
    ],
)
def test_texts_are_repaired_squeezed_and_lowered(text, expected):
    assert clean(text) == expected
