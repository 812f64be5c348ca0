"""Braces in names."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import SourceError
from perception_encoder.sources.patterns import expand_braces


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data/{00000..00002}.tar", ["data/00000.tar", "data/00001.tar", "data/00002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("{x,y{1,2}}", ["x", "y1", "y2"]),
        ("{train-{00..01},test}.tar", ["train-00.tar", "train-01.tar", "test.tar"]),
        ("a{,b}", ["a", "ab"]),
        ("{a}", ["{a}"]),
        ("{}", ["{}"]),
        ("{a,b", ["{a,b"]),
        ("a,b}", ["a,b}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_stand_for_several_names(pattern, expected):
    assert expand_braces(pattern) == expected


def test_more_than_a_million_names_are_refused_at_once():
    with pytest.raises(SourceError, match="more than 1,000,000 names"):
        expand_braces("{0..99999}{0..99999}")


# A pattern and what it stands for, made together.
_text = st.text("xyz-./", max_size=3)
_plain = _text.map(lambda text: (text, [text]))


@st.composite
def _range(draw):
    first, last = draw(st.integers(0, 30)), draw(st.integers(0, 30))
    width = draw(st.integers(1, 4))
    if width == 1:
        ends, form = (str(first), str(last)), "{}"
    else:
        ends, form = (f"{first:0{width}}", f"{last:0{width}}"), f"{{:0{width}}}"
        if not any(end.startswith("0") and len(end) > 1 for end in ends):
            form = "{}"
    step = 1 if first <= last else -1
    return f"{{{ends[0]}..{ends[1]}}}", [form.format(n) for n in range(first, last + step, step)]


def _list(inner):
    return st.lists(inner, min_size=2, max_size=3).map(
        lambda parts: (
            "{" + ",".join(pattern for pattern, _ in parts) + "}",
            [name for _, names in parts for name in names],
        )
    )


def _joined(inner):
    return st.lists(inner, min_size=1, max_size=2).map(
        lambda parts: (
            "".join(pattern for pattern, _ in parts),
            _product([names for _, names in parts]),
        )
    )


def _product(lists):
    names = [""]
    for options in lists:
        names = [name + option for name in names for option in options]
    return names


_patterns = st.recursive(
    _plain | _range(), lambda inner: _list(inner) | _joined(inner), max_leaves=5
)


@given(_patterns)
def test_any_nesting_expands_in_order(made):
    pattern, names = made
    assert expand_braces(pattern) == ([name for name in names if name] or [pattern])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_it_agrees_with_bash():
    patterns = [
        "a{b,c{d,e}f}g", "{1..3}{a,b}", "{003..1}", "{5..-5..3}", "{-01..1}", "x{,y}{,z}",
        "{a,{b}}", "{a}{b,c}", "{1..2}}", "{{1..2}", "{a,b}{", "{1...3}", "{1..a}", "{,}x",
        "{10..08}",
    ]  # fmt: skip
    for pattern in patterns:
        done = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, timeout=200
        )
        assert expand_braces(pattern) == done.stdout.splitlines(), pattern


@pytest.mark.parametrize(
    "pattern",
    [f"{{{'9' * 5000}..{'9' * 5000}}}", f"{{1..2..{'9' * 5000}}}", f"{{0..{'9' * 19}}}"],
)
def test_numbers_that_count_no_files_are_one_name(pattern):
    assert len(expand_braces(pattern)) == 1


@pytest.mark.parametrize("pattern", ["{a,b}" * 2000, "{" * 2000 + "a,b" + "}" * 2000, "{" * 50_000])
def test_more_braces_than_can_be_meant_are_refused_at_once(pattern):
    with pytest.raises(SourceError, match="more than 100 braces"):
        expand_braces(pattern)
