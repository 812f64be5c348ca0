"""Labels as people write them, and the labels of a data set's classes."""

import pytest

from perception_encoder.analysis.labels import (
    match_classes,
    name_labels,
    parse_label_list,
    parse_labels,
)


def test_labels_with_commas() -> None:
    assert parse_label_list(" cat,dog ,red car,") == {
        "cat": ("cat",), "dog": ("dog",), "red car": ("red car",)
    }  # fmt: skip


LINES = """
# what there is
cat
pet: dog, hamster ,a goldfish   # in place of "pet"
C# book
n01440764: tench
"""
JSON = '{"cat": "cat", "pet": ["dog", "hamster", "a goldfish"], "C# book": ["C# book"]}'


def test_a_file_of_lines_or_json() -> None:
    expected = {
        "cat": ("cat",), "pet": ("dog", "hamster", "a goldfish"), "C# book": ("C# book",)
    }  # fmt: skip
    assert parse_labels(LINES) == expected | {"n01440764": ("tench",)}
    assert parse_labels(JSON) == expected
    assert parse_labels('["cat", "12:30"]') == {"cat": ("cat",), "12:30": ("12:30",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "no labels"),
        ("cat\ndog\ncat: kitten", "'cat' occurs twice"),
        ("cat:\n", "'cat' has no names"),
        (": cat\n", "has no names"),
        ('{"cat": [', "invalid JSON"),
        ('{"cat": 3}', "'cat'"),
        ('{"cat": [3]}', "list of names"),
        ('{"cat": []}', "'cat' has no names"),
        ("[3]", "list of names"),
        ("{}", "no labels"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_labels(text)


def test_classes_are_labels_themselves_unless_some_are_given() -> None:
    labels, numbers = match_classes(["red_car", "cat", "red_car"])
    assert labels == {"cat": ("cat",), "red_car": ("red car",)}
    assert numbers == [1, 0, 1]


def test_a_class_that_is_a_number_is_the_number_of_a_label() -> None:
    given = {"tench": ("tench",), "goldfish": ("goldfish",), "7": ("seven",)}
    assert match_classes(["1", "0", "goldfish", "7"], given) == (given, [1, 0, 1, 2])
    for classes in (["3"], ["carp"]):
        with pytest.raises(ValueError, match=f"'{classes[0]}' is not among the labels"):
            match_classes(classes, given)
    named = name_labels(["red_car", "_"])
    assert named == {"red_car": ("red car",), "_": ("_",)}
    assert match_classes(["1", "0"], named)[1] == [1, 0]
    with pytest.raises(ValueError, match="are numbers"):
        match_classes(["0", "12"])
