"""Text files that options name: encodings of all editors, and no line that shifts another."""

import json
from pathlib import Path

import pytest
from cli.command import pe_inside
from PIL import Image


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("red", "green", "blue"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{name}.png")
    return tmp_path


ENCODINGS = [
    pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="UTF-8 with a mark"),
    pytest.param(lambda text: text.encode("utf-16"), id="UTF-16"),
    pytest.param(lambda text: b"\xfe\xff" + text.encode("utf-16-be"), id="UTF-16 BE"),
    pytest.param(lambda text: text.encode("utf-32"), id="UTF-32"),
    pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CR LF"),
    pytest.param(lambda text: text.replace("\n", "\r").encode(), id="CR"),
]


@pytest.mark.parametrize("encode", ENCODINGS)
def test_labels_synonyms_and_names_are_read_in_any_encoding(folder: Path, encode) -> None:  # type: ignore[no-untyped-def]
    (folder / "labels.txt").write_bytes(encode("red\nkühl: blue, green\n"))
    ended = pe_inside("classify", "red.png", "--labels-file", "labels.txt", "-k", "9", "--json")
    (found,) = ended.records()
    assert {one["label"] for one in found["labels"]} == {"red", "kühl"}  # type: ignore[attr-defined]
    labels = {"kühl": ["blue"], "warm": ["red"]}
    (folder / "labels.json").write_bytes(encode(json.dumps(labels, ensure_ascii=False)))
    (found,) = pe_inside("classify", "blue.png", "--labels-file", "labels.json", "--json").records()
    assert found["label"] == "kühl"
    assert pe_inside("index", ".", "--index", "t.lance").code == 0
    (folder / "names.txt").write_bytes(encode("# words\nröt\ngrün\n"))
    ended = pe_inside("cluster", "-k", "1", "--names", "names.txt", "--json", "--index", "t.lance")
    (cluster,) = ended.records()
    assert set(cluster["words"]) <= {"röt", "grün"}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"red\nbl\xfce\n", "labels.txt, line 2: not valid UTF-8; save it as UTF-8"),
        (b"red\n\x89PNG\r\n\x1a\n\0\0", "labels.txt, line 2: not valid UTF-8"),
        (b"red\nbl\0ue\n", "labels.txt, line 2: a NUL character"),
        (b"\xff\xfer\0e\0d", "labels.txt, line 1: not valid UTF-16"),
        (b'{"a": ["x"], "a": ["y"]}', "the label 'a' occurs twice"),
        (b'{"a": ["\\ud800"]}', "this is not valid UTF-8"),
        (b'["a\\u0000"]', "this holds a NUL character"),
    ],
)
def test_a_labels_file_that_is_no_text_is_refused_with_the_line(
    folder: Path, content: bytes, problem: str
) -> None:
    (folder / "labels.txt").write_bytes(content)
    ended = pe_inside("classify", "red.png", "--labels-file", "labels.txt")
    assert ended.code in (1, 2)
    assert problem in ended.err
    assert ended.out == b""


def test_separators_that_are_no_line_breaks_stay_in_a_label(folder: Path) -> None:
    (folder / "labels.txt").write_bytes("red\x0b\u2028\x85x\nblue\n".encode())
    (found,) = pe_inside(
        "classify", "red.png", "--labels-file", "labels.txt", "-k", "9", "--json"
    ).records()
    assert {one["label"] for one in found["labels"]} == {"red\x0b\u2028\x85x", "blue"}  # type: ignore[attr-defined]


def test_a_longer_file_than_the_limit_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.cli.text_files.MAX_BYTES", 2**20)
    (folder / "labels.txt").write_bytes(b"red\n" * 2**18 + b"x")
    ended = pe_inside("classify", "red.png", "--labels-file", "labels.txt")
    assert (ended.code, "longer than 1 MiB" in ended.err) == (1, True)
    piped = pe_inside("embed", "-t", "-", given=b"red\n" * 2**18 + b"x")
    assert (piped.code, "standard input: longer than 1 MiB" in piped.err) == (1, True)


def classes(folder: Path, labels: bytes) -> tuple[int, str, dict[str, object]]:
    """Measure images whose classes are the numbers 0 and 1."""
    (folder / "labels.txt").write_bytes(labels)
    rows = "path,label\nred.png,0\nblue.png,1\n"
    (folder / "data.csv").write_text(rows)
    ended = pe_inside("eval", "classification", "data.csv", "--labels-file", "labels.txt", "--json")
    return ended.code, ended.err, ended.records()[0] if ended.out else {}


@pytest.mark.parametrize("labels", [b"red\n\nblue\n", b"\nred\nblue\n", b"red\r\n \r\nblue\r\n"])
def test_an_empty_line_never_shifts_the_labels_of_numbers(folder: Path, labels: bytes) -> None:
    code, said, _ = classes(folder, labels)
    assert code == 2
    line = 1 if labels.startswith(b"\n") else 2
    assert f"labels.txt, line {line}: empty" in said


def test_comments_and_a_last_empty_line_shift_nothing(folder: Path) -> None:
    code, _, record = classes(folder, b"# two\nred\nblue # sky\n\n\n")
    assert code == 0
    assert {one["label"] for one in record["classes"]} == {"red", "blue"}  # type: ignore[attr-defined]


def test_a_class_of_5000_digits_is_no_label(folder: Path) -> None:
    (folder / "labels.txt").write_text("red\nblue\n")
    (folder / "data.csv").write_text(f"path,label\nred.png,0\nblue.png,{'9' * 5000}\n")
    ended = pe_inside("eval", "classification", "data.csv", "--labels-file", "labels.txt")
    assert ended.code == 2
    assert "is not among the labels" in ended.err
