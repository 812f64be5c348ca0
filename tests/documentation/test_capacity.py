"""The page on capacity holds what the script computes, and each figure is where the page says."""

import re

import pytest
from documentation.blocks import REPOSITORY

from benchmarks import capacity
from benchmarks.capacity import MODELS, Capacity, Plan, format_number, read_result, write_tables


def test_the_page_holds_the_tables_of_the_script():
    page = capacity.PAGE.read_text(encoding="utf-8")
    assert write_tables(page) == page, "run: python -m benchmarks.capacity --write"
    assert page.count("| measured |") > 10


@pytest.mark.parametrize("model", MODELS)
def test_every_measured_figure_is_in_the_named_file(model):
    lines = [line for line in Capacity(Plan(model=model)).lines if line.kind == "measured"]
    assert len(lines) > 8
    for line in lines:
        file = re.match(r"`(\w+\.json)`: ", line.source)
        assert file is not None, line
        assert (REPOSITORY / "benchmarks" / "results" / file[1]).is_file(), line
        assert line.value > 0


def test_arithmetic():
    one, ten = Capacity(Plan(images=1e8)), Capacity(Plan(images=1e9))
    for what in ("GPU hours", "dataset", "searcher on a local disk", "read from the source"):
        assert ten.value(what) == pytest.approx(10 * one.value(what))
    assert one.value("GPU hours") == pytest.approx(1e8 / 329 / 3600)
    assert one.value("hours of a machine of 2 cores instead") == pytest.approx(
        1e8 / read_result("bench.json", "rows/3/figures/images_per_second") / 3600
    )
    assert (one.value("GPUs"), ten.value("GPUs")) == (1, 6)
    assert ten.value("indexes, each whole on a machine") == 10
    # A single index of ten times the rows: each query takes longer, but only one replica is asked.
    whole = Capacity(Plan(images=1e9, rows_of_index=1e9))
    assert whole.value("a query in one index") == pytest.approx(
        one.value("a query in one index") * 10**0.5
    )
    halves = Capacity(Plan(bytes_of_vector=4)).value("embedding of a row")
    assert halves == 2 * one.value("embedding of a row") == 4096
    assert Capacity(Plan(sources="camera")).value("network") == 20 * one.value("network")
    small = Capacity(Plan(model="PE-Core-S16-384"))
    assert small.value("searcher of a row") == one.value("searcher of a row") / 2


def test_plans_that_mean_nothing_are_refused():
    for wrong in (
        {"model": "pe-nano"}, {"gpu": "abacus"}, {"images": 0}, {"images": float("nan")},
        {"days": 0}, {"queries": -1}, {"bytes_of_vector": 3}, {"growth": 2}, {"sources": "x"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            Plan(**wrong)
    with pytest.raises(ValueError, match="no place for '100 million'"):
        write_tables("an empty page")


def test_numbers_have_three_digits():
    values = (0, 0.01234, 4.5678, 78.94, 1234.5, 2048, 999_999.7, 45_678_901, 1.5e9)
    assert [format_number(value) for value in values] == [
        "0", "0.0123", "4.57", "78.9", "1,230", "2,048", "1 million", "45.7 million",
        "1.5 billion",
    ]  # fmt: skip
