"""One bad item loses no good work: the good ones are done, the bad one is named and counted."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli.command import pe_inside
from PIL import Image


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: red.png and blue.png, and bad.png, which is cut off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for color in ("red", "blue"):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{color}.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return tmp_path


def alone(*arguments: str) -> np.ndarray:
    """Embed one item by itself."""
    (record,) = pe_inside("embed", *arguments).records()
    return np.array(record["vector"], np.float32)


def test_embed_keeps_positions_in_an_array(folder: Path) -> None:
    ended = pe_inside("embed", "red.png", "bad.png", "blue.png", "-o", "v.npy")
    assert ended.code == 1
    assert "bad.png: " in ended.err
    assert "1 of 3 items not embedded; their rows are NaN" in ended.err
    vectors = np.load(folder / "v.npy")
    assert vectors.shape == (3, 192)
    assert np.isnan(vectors[1]).all()
    np.testing.assert_allclose(vectors[0], alone("red.png"), atol=1e-6)
    np.testing.assert_allclose(vectors[2], alone("blue.png"), atol=1e-6)


def test_embed_names_the_good_ones_in_other_formats(folder: Path) -> None:
    given = ["red.png", "bad.png", "gone.png", "blue.png"]
    listed = pe_inside("embed", *given)
    assert listed.code == 1
    assert "bad.png: " in listed.err
    assert "gone.png: no such file" in listed.err
    assert "2 of 4 items not embedded" in listed.err
    assert [record["item"] for record in listed.records()] == ["red.png", "blue.png"]
    assert pe_inside("embed", *given, "-o", "v.parquet").code == 1
    index = pq.read_table(folder / "v.parquet")
    assert index["item"].to_pylist() == ["red.png", "blue.png"]
    np.testing.assert_allclose(index["vector"][1].as_py(), alone("blue.png"), atol=1e-6)


def test_embed_writes_no_file_of_nothing(folder: Path) -> None:
    ended = pe_inside("embed", "bad.png", "gone.png", "-o", "v.npy")
    assert ended.code == 1
    assert "2 of 2 items not embedded" in ended.err
    assert not (folder / "v.npy").exists()


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (b"a\n\nb\n", 3),
        (b"a\n\nb", 3),
        (b"\n\nb\n\n", 4),
        (b"\xef\xbb\xbfa\r\n\r\nb\r\n", 3),
        ("a\n\nb\n".encode("utf-16"), 3),
        ("a\n\nb\n".encode("utf-32"), 3),
        ("a\u2028x\x85y\x0bz\n\nb\n".encode(), 3),
    ],
)
def test_an_empty_line_is_an_empty_text(folder: Path, given: bytes, rows: int) -> None:
    assert pe_inside("embed", "-t", "-", "-o", "t.npy", given=given).code == 0
    vectors = np.load(folder / "t.npy")
    assert len(vectors) == rows
    assert np.isfinite(vectors).all()
    last = rows - 1 if rows < 4 else 2
    np.testing.assert_allclose(vectors[last], alone("-t", "b"), atol=1e-6)


def test_the_first_text_of_a_marked_file_has_no_mark() -> None:
    plain, marked = (pe_inside("embed", "-t", "-", given=one) for one in (b"a", b"\xef\xbb\xbfa"))
    assert plain.records() == marked.records()


def test_texts_that_are_none_are_left_out(folder: Path) -> None:
    ended = pe_inside("embed", "-t", "-", "-o", "t.npy", given=b"a\nb\xff\nc\0d\ne\n")
    assert ended.code == 1
    assert "standard input, line 2: this is not valid UTF-8" in ended.err
    assert "standard input, line 3: this holds a NUL character" in ended.err
    assert "2 of 4 items not embedded" in ended.err
    vectors = np.load(folder / "t.npy")
    assert np.isnan(vectors).any(axis=1).tolist() == [False, True, True, False]
    np.testing.assert_allclose(vectors[3], alone("-t", "e"), atol=1e-6)


@pytest.mark.parametrize(("end", "options"), [(b"\n", ()), (b"\r\n", ()), (b"\0", ("-0",))])
def test_an_empty_name_in_a_list_of_files_has_a_row(
    folder: Path, end: bytes, options: tuple[str, ...]
) -> None:
    given = end.join([b"red.png", b"", b"blue.png", b""])
    ended = pe_inside("embed", "-", *options, "-o", "v.npy", given=given)
    assert ended.code == 1
    assert "standard input, line 2: empty" in ended.err
    vectors = np.load(folder / "v.npy")
    assert np.isnan(vectors).any(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(vectors[2], alone("blue.png"), atol=1e-6)


def test_a_list_of_files_may_be_in_utf_16(folder: Path) -> None:
    (folder / "red.png").rename(folder / "röt.png")
    ended = pe_inside("embed", "-", given="röt.png\r\nblue.png\r\n".encode("utf-16"))
    assert [record["item"] for record in ended.records()] == ["röt.png", "blue.png"]


def test_compare_leaves_the_bad_one_out() -> None:
    ended = pe_inside("compare", "red.png", "bad.png", "red.png", "a\udcff", "--json")
    assert ended.code == 1
    assert ended.records() == [{"item": "red.png", "score": pytest.approx(1, abs=1e-4)}]
    assert "bad.png: " in ended.err
    assert "argument 4: this is not valid UTF-8" in ended.err
    assert "2 of 3 items not compared" in ended.err


def test_a_bad_query_leaves_the_others_answered(folder: Path) -> None:
    assert pe_inside("index", "red.png", "blue.png", "--index", "t.lance").code == 0
    queries = b"\xef\xbb\xbfred\r\ngone.png\r\n\r\n@gone\nb\xff\nc\0\nbad.png\nblue\n"
    (folder / "q.txt").write_bytes(queries)
    ended = pe_inside("search", "--queries", "q.txt", "--index", "t.lance", "--json", "-k1")
    assert [record["query"] for record in ended.records()] == ["red", "blue"]
    assert ended.code == 1
    for number in (2, 4, 5, 6, 7):
        assert f"q.txt, line {number}: " in ended.err
    assert "5 queries not answered" in ended.err
    piped = pe_inside(
        "search",
        "--queries",
        "-",
        "--index",
        "t.lance",
        "--json",
        "-k1",
        given="red\n".encode("utf-16"),
    )
    assert [record["query"] for record in piped.records()] == ["red"]


@pytest.mark.parametrize("query", ["red\udcff", "red\0", "@\udcff", "@\0", "2:red\0 + blue"])
def test_a_query_that_is_no_text_is_one_clear_line(query: str) -> None:
    assert pe_inside("index", "red.png", "--index", "t.lance").code == 0
    ended = pe_inside("search", query, "--index", "t.lance")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.startswith("pe: the query")
    assert len(ended.err.splitlines()) == 1
