"""Whatever texts hold: JSON is strict, people's lines are safe, and lists keep their positions."""

import io
import json
import re
import sys
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.cli.output import escape, to_json
from perception_encoder.cli.text_files import read_list

ANY_TEXT = st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff")), max_size=9)


@given(ANY_TEXT)
def test_what_people_read_has_no_control_characters(text: str) -> None:
    shown = escape(text)
    assert not UNSAFE.search(shown)
    assert UNSAFE.search(text) or shown == text


@given(VALUES)
def test_json_is_strict_and_exact(value: object) -> None:
    text = to_json(value)
    text.encode()
    assert not UNSAFE.search(text)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(text, parse_constant=refuse)
    if isinstance(value, str) and not re.search("[\ud800-\udfff]", value):
        assert read == value


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_a_list_keeps_every_line(lines: list[str], end: str, ends: bool, is_utf_16: bool) -> None:
    text = end.join(lines) + (end if ends else "")
    encoded = text.encode("utf-16") if is_utf_16 else text.encode()
    with patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded))):
        read = read_list(Path("-"))
    assert read == (text.removesuffix(end).split(end) if text else [])
