"""Names of files hold anything: people see them escaped, programs get them exactly."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from cli.command import Ended, pe_inside
from PIL import Image

from perception_encoder.cli.output import escape, to_json

WILD = ("emoji \U0001f600.png", "esc\x1b[31m\nforged.png", "bidi\u202egnp.png", "c1\x9b2J.png")
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of images with wild names; one of them cannot be read."""
    root = tmp_path_factory.mktemp("names")
    (root / "in").mkdir()
    for place, name in enumerate(WILD):
        Image.new("RGB", (32, 32), (200, 10 * place, 0)).save(root / "in" / name)
        Image.new("RGB", (32, 32), (200, 10 * place, 0)).save(root / "in" / f"copy {name}")
    (root / "in" / "bad\x1b[2J\npe: forged.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    indexed = pe_inside("index", str(root / "in"), "--index", str(root / "t.lance"))
    assert indexed.code == 1
    check_stderr(indexed)
    return root


def check_stderr(ended: Ended) -> None:
    """Make sure that nothing steers the terminal, and that no name has begun a line."""
    assert not UNSAFE.search(ended.err), ended.err
    assert not any(line.startswith(("forged", "pe: forged")) for line in ended.err.splitlines())


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize(
    ("command", "num_lines"),
    [
        (("search", "red"), 9),
        (("search", "red", "--paths"), 8),
        (("similar", "@copy c1\x9b2J.png"), 8),
        (("classify", "--labels", "red,blue"), 9),
        (("classify", "--labels", "red,blue", "--paths"), 8),
        (("duplicates", "--tier", "bytes"), 9),
        (("duplicates", "--tier", "bytes", "--paths"), 4),
        (("cluster", "-k", "2"), 3),
        (("clean", "--label-folders"), 10),
        (("select", "-n", "4"), 4),
        (("errors",), 2),
        (("errors", "--paths"), 1),
        (("indexes", "info"), None),
    ],
)
def test_all_names_are_printed_without_control_characters(
    folder: Path, command: tuple[str, ...], num_lines: int | None, encoding: str
) -> None:
    ended = pe_inside(*command, "--index", str(folder / "t.lance"), encoding=encoding)
    assert ended.code == 0, ended.err
    check_stderr(ended)
    shown = ended.out.decode(encoding)
    assert not UNSAFE.search(shown), shown
    assert num_lines is None or len(shown.splitlines()) == num_lines


def test_what_was_replaced_is_noted(folder: Path) -> None:
    search = ("search", "red", "--index", str(folder / "t.lance"), "-k", "9")
    narrow = pe_inside(*search, encoding="cp1252")
    assert b"emoji \\U0001f600.png" in narrow.out
    assert (
        "characters that the encoding of stdout does not have are escaped in this output (2)"
        in narrow.err
    )
    wide = pe_inside(*search)
    assert "emoji \U0001f600.png".encode() in wide.out
    assert "escaped" not in wide.err
    paths = pe_inside(*search, "--paths")
    assert "control characters in names are escaped in this output (6)" in paths.err
    assert "esc\\x1b[31m\\nforged.png" in paths.out.decode()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_programs_get_names_exactly(folder: Path, encoding: str) -> None:
    index_path = ("--index", str(folder / "t.lance"))
    expected = {str(folder / "in" / f"{copy}{name}") for name in WILD for copy in ("", "copy ")}
    ended = pe_inside("search", "red", "-0", *index_path, encoding=encoding)
    assert {os.fsdecode(name) for name in ended.out.split(b"\0")[:-1]} == expected
    assert ended.err == ""
    records = pe_inside("search", "red", "--json", *index_path, encoding=encoding)
    assert {record["uri"] for record in records.records()} == expected
    assert not UNSAFE.search(records.out.decode(encoding))
    listed = pe_inside(
        "classify", "-l", "red,blue", "--paths", "-0", *index_path, encoding=encoding
    )
    assert {os.fsdecode(name) for name in listed.out.split(b"\0")[:-1]} == expected
    (failed,) = pe_inside("errors", "--json", *index_path, encoding=encoding).records()
    assert failed["uri"] == str(folder / "in" / "bad\x1b[2J\npe: forged.png")
    failed_path = pe_inside("errors", "-0", *index_path).out
    assert failed_path == os.fsencode(str(failed["uri"])) + b"\0"


def test_names_in_arguments_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for command in (
        ("embed", "no\x1b]0;\nforged.png"),
        ("compare", "no\x1b]0;\nforged.png", "a"),
        ("index", "no\x1b]0;\nforged"),
        ("search", "red", "--index", "no\x1b]0;\nforged"),
        ("search", "--no\x1b]0;\nforged"),
        ("no\x1b]0;\nforged",),
        ("embed", "a", "-o", "no\x1b]0;\nforged"),
        ("classify", "in", "--labels-file", "no\x1b]0;\nforged"),
        ("search", "--queries", "no\x1b]0;\nforged"),
        ("embed", "-t", "a", "--model", "no\x1b]0;\nforged"),
        ("indexes", "export", str(tmp_path / "x"), "--format", "no\x1b]0;\nforged"),
    ):
        ended = pe_inside(*command)
        assert ended.code != 0
        check_stderr(ended)
        assert "\\x1b]0;\\" in ended.err


def test_names_that_are_no_text_are_in_every_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "caf\udce9.png", "z.png"):
        Image.new("RGB", (32, 32), "red").save(name)
    given = ("embed", "a.png", "caf\udce9.png", "z.png")
    expected = ["a.png", "caf\\udce9.png", "z.png"]
    assert [record["item"] for record in pe_inside(*given).records()] == expected
    assert pe_inside(*given, "-o", "n\udce9.jsonl").code == 0
    lines = Path("n\udce9.jsonl").read_bytes()
    assert [record["item"] for record in Ended(0, lines, "").records()] == expected
    assert pe_inside(*given, "-o", "n\udce9.parquet").code == 0
    with open(b"n\xe9.parquet", "rb") as file:
        assert pq.read_table(file)["item"].to_pylist() == expected
    assert pe_inside(*given, "-o", "n\udce9.npy").code == 0
    assert np.load(Path("n\udce9.npy")).shape == (3, 192)


def test_an_index_and_a_folder_to_move_to_need_a_name_that_is_text(tmp_path: Path) -> None:
    for command in (
        ("index", str(tmp_path), "--index", "t\udce9.lance"),
        ("search", "red", "--index", "t\udce9.lance"),
        ("duplicates", "--move-to", "to\udce9", "--yes", "--index", str(tmp_path)),
    ):
        ended = pe_inside(*command)
        assert ended.code == 2
        assert "the name is not valid UTF-8" in ended.err
    assert not list(tmp_path.iterdir())


def test_json_is_strict_whatever_it_holds() -> None:
    text = to_json(
        {"a": float("nan"), "b": [float("inf"), {"c": (-float("inf"), 1.5)}], "d": "\udce9\ud83d"}
    )
    assert text == r'{"a": null, "b": [null, {"c": [null, 1.5]}], "d": "\\udce9\\ud83d"}'
    (record,) = Ended(0, to_json({"n": "\x1b\x7f\x9b\u202e\u2028é😀"}).encode(), "").records()
    assert record == {"n": "\x1b\x7f\x9b\u202e\u2028é😀"}


def test_letters_and_joiners_stay_as_they_are() -> None:
    family = "\U0001f468\u200d\U0001f469 café עברית\u200f"
    assert escape(family) == family
    assert escape("a\tb\r\n\x1b]0;x\x07\udcff") == r"a\tb\r\n\x1b]0;x\x07\udcff"
