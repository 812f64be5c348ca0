"""A searcher is a cache: whatever became of it, search answers rightly and says what is wrong."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from index.searcher.searcher_indexes import LISTS, build, by_definition, clustered, make_index, told

from perception_encoder.index import Index
from perception_encoder.index.searcher.searcher import Searchers

EMBED_DIM = 16


def data_file(folder: Path, end: str) -> Path:
    return next(folder.glob(f"*.{end}"))


def cut(end: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = data_file(folder, end)
        file.write_bytes(file.read_bytes()[:-1])

    return damage


def overwrite(end: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = data_file(folder, end)
        file.write_bytes(bytes(file.stat().st_size))

    return damage


def lose(end: str) -> Callable[[Path], None]:
    return lambda folder: data_file(folder, end).unlink()


def rewrite_header(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "searcher.json").write_text(text)

    return damage


def forget(key: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        header = json.loads((folder / "searcher.json").read_text())
        del header[key]
        (folder / "searcher.json").write_text(json.dumps(header))

    return damage


def zero_page(end: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = data_file(folder, end)
        found = bytearray(file.read_bytes())
        middle = len(found) // 2 // 4096 * 4096
        found[middle : middle + 4096] = bytes(4096)
        file.write_bytes(found)

    return damage


def change_probes(folder: Path) -> None:
    """A value that is well formed, but not the one that was written."""
    header = json.loads((folder / "searcher.json").read_text())
    header["tuning"][0]["probes"] = 1
    (folder / "searcher.json").write_text(json.dumps(header))


def swap_rows(folder: Path) -> None:
    """The vectors of one row in another's place: nothing but the scores tells."""
    file = data_file(folder, "vectors")
    found = file.read_bytes()
    file.write_bytes(found[2 * EMBED_DIM :] + found[: 2 * EMBED_DIM])


DAMAGES = {
    **{f"{end} cut": cut(end) for end in ("vectors", "lists", "coarse")},
    **{f"{end} zeros": overwrite(end) for end in ("vectors", "lists", "coarse")},
    **{f"{end} lost": lose(end) for end in ("vectors", "lists", "coarse", "sums")},
    **{f"page of {end}": zero_page(end) for end in ("vectors", "lists")},
    "header with other probes": change_probes,
    "header empty": rewrite_header(""),
    "header half": rewrite_header('{"format": 1, "token": "x'),
    "header list": rewrite_header("[]"),
    "header short": forget("fragments"),
    "header without sizes": forget("sizes"),
    "rows moved": swap_rows,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with a searcher, to be copied."""
    folder = tmp_path_factory.mktemp("built") / "t"
    index = make_index(folder, clustered(3000, EMBED_DIM))
    assert build(index, LISTS).searcher == "approximate"
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Index:
    """A copy of that index, `tmp_path / "t"`."""
    return Index.open(shutil.copytree(built, tmp_path / "t"))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_searcher_is_noticed_and_not_used(
    damage: Callable[[Path], None], index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / "t" / "_pe" / "searcher")
    query = clustered(1, EMBED_DIM, seed=1)
    expected = by_definition(index, query[0], 5)
    for opened in (Index.open(tmp_path / "t"), Index.open(tmp_path / "t")):
        with caplog.at_level(logging.WARNING):
            assert told(opened.search(query, k=5, exact=True)[0]) == expected
            assert told(opened.search(query, k=5)[0]) == expected
    assert "pe optimize makes a new one" in caplog.text
    caplog.clear()
    assert build(index, LISTS).build_seconds > 0
    assert told(index.search(query, k=5, exact=True)[0]) == expected
    assert caplog.text.count("the searcher is broken") <= 1  # said by `build`, which looked at it


def test_a_page_that_is_zeroed_under_an_open_index_is_noticed(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a server has it, which has read that page before."""
    query = clustered(1, EMBED_DIM, seed=1)
    expected = by_definition(index, query[0], 5)
    assert told(index.search(query, k=5, exact=True)[0]) == expected
    file = data_file(tmp_path / "t" / "_pe" / "searcher", "vectors")
    place = 2 * EMBED_DIM * int(expected[0][0].removeprefix("p"))  # of the best hit
    before = file.stat().st_mtime_ns
    with file.open("r+b") as opened:
        opened.seek(place)
        opened.write(bytes(2 * EMBED_DIM))
    assert file.stat().st_mtime_ns != before
    assert told(index.search(query, k=5, exact=True)[0]) == expected
    assert told(index.search(query, k=5)[0]) == expected
    assert caplog.text.count("damaged at byte") == 1
    assert index.needs_optimize() or index.optimize().searcher == "none"


def test_only_what_a_query_reads_is_checked(tmp_path: Path) -> None:
    """So that a search of a few rows costs what reading these costs, however large the index."""
    index = make_index(tmp_path / "t", clustered(20_000, 256))
    build(index, LISTS)
    searcher = Searchers(index.path).current()
    assert searcher is not None
    tuning = searcher.tuning(10)
    assert tuning is not None
    searcher.search_lists(clustered(1, 256, seed=1)[0], 20, 1, None)
    checked = {end: file.checked_share for end, file in searcher.files.items()}
    assert checked["coarse"] == 1
    assert 0 < checked["vectors"] < 0.5
    assert 0 < checked["lists"] < 0.5
    searcher.propose_exact(clustered(1, 256, seed=1), 5, None, None)
    assert searcher.files["vectors"].checked_share == 1


def test_a_searcher_of_a_later_format_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_index(tmp_path / "t", clustered(100, 8))
    build(index, LISTS)
    header = tmp_path / "t" / "_pe" / "searcher" / "searcher.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), "format": 99}))
    query = clustered(1, 8, seed=1)
    assert told(index.search(query, k=5)[0]) == by_definition(index, query[0], 5)
    assert "broken" not in caplog.text


def test_another_index_s_searcher_is_no_help_and_no_harm(tmp_path: Path) -> None:
    one = make_index(tmp_path / "one", clustered(500, 8))
    other = make_index(tmp_path / "other", clustered(500, 8, seed=9))
    build(other, LISTS)
    shutil.copytree(tmp_path / "other" / "_pe" / "searcher", tmp_path / "one" / "_pe" / "searcher")
    query = clustered(1, 8, seed=1)
    assert told(one.search(query, k=5)[0]) == by_definition(one, query[0], 5)


def test_an_index_that_is_moved_or_copied_keeps_its_searcher(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(500, 8))
    build(index, LISTS)
    shutil.copytree(tmp_path / "t", tmp_path / "copy")
    copy = Index.open(tmp_path / "copy")
    assert not copy.needs_optimize()
    assert build(copy, LISTS).build_seconds == 0
    query = clustered(1, 8, seed=1)
    assert told(copy.search(query, k=5, exact=True)[0]) == by_definition(index, query[0], 5)
