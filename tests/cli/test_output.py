"""Indexes as a terminal shows them."""

import pytest

from perception_encoder.cli.output import write_table


def test_columns_of_nothing_but_numbers_stand_to_the_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_table(
        ["score", "bytes", "version", "image"],
        [
            ["0.5000", "1,024", "2.0.1", "7"],
            ["-0.0625", "9", "3", "a b"],
            ["", "-", "14.0.2+cpu", "cat.png"],
        ],
    )
    assert capsys.readouterr().out.splitlines() == [
        "  score  bytes  version     image",
        " 0.5000  1,024  2.0.1       7",
        "-0.0625      9  3           a b",
        "             -  14.0.2+cpu  cat.png",
    ]


def test_an_index_without_rows_is_its_titles(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(["id", "size"], [])
    assert capsys.readouterr().out == "id  size\n"
