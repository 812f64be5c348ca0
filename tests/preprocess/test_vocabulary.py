import gzip
import json
import sys

import pytest

from perception_encoder.errors import CheckpointError, TokenizerNotFoundError
from perception_encoder.preprocess.vocabulary import (
    MERGES_FILE_NAME,
    build,
    byte_symbols,
    installed_vocabulary,
    read_vocabulary,
)

MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]


def small_file(tmp_path, change):
    content = json.loads(build(MERGES).to_str())
    change(content["model"])
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


def test_ids_are_bytes_then_word_endings_then_merges_then_specials():
    pipeline = build(MERGES)
    assert byte_symbols()[0] == "!"
    assert len(set(byte_symbols())) == 256
    ids = [pipeline.token_to_id(t) for t in ("!", "!</w>", "ca", "cat</w>", "dog</w>")]
    assert ids == [0, 256, 512, 513, 515]
    specials = [pipeline.token_to_id(t) for t in ("<start_of_text>", "<end_of_text>")]
    assert specials == [516, 517]


def test_two_merges_that_make_one_symbol_share_its_id():
    pipeline = build([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")])
    assert pipeline.get_vocab_size() == 512 + 3 + 2


def test_a_merge_of_unknown_symbols_is_refused():
    with pytest.raises(ValueError, match="'ca' \\+ 't'"):
        build([("ca", "t")])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerNotFoundError, match=r"absent\.json .*No such file"):
        read_vocabulary(tmp_path / "absent.json")


def test_a_folder_is_not_a_vocabulary(tmp_path):
    with pytest.raises(TokenizerNotFoundError, match="Is a directory"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.pop("merges"),
        lambda model: model.pop("vocab"),
        lambda model: model["merges"].pop(),
        lambda model: model["merges"].append(["x"]),
        lambda model: model["merges"].append([["x"], "y"]),
        lambda model: model["merges"].reverse(),
        lambda model: model["vocab"].update({"!": 1, '"': 0}),
        lambda model: model["vocab"].update({"extra": 518}),
        lambda model: model["vocab"].update({"<end_of_text>": 516, "<start_of_text>": 517}),
        lambda model: model.update(vocab=[]),
    ],
)
def test_a_vocabulary_of_another_layout_is_refused(tmp_path, change):
    path = small_file(tmp_path, change)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a vocabulary"):
        read_vocabulary(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"model": 3}', b"\xff\xfe"])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a vocabulary"):
        read_vocabulary(path)


@pytest.mark.parametrize("damage", ["short", "flipped", "few", "not merges"])
def test_a_damaged_merges_file_is_refused(tmp_path, damage):
    whole = gzip.compress(b"#version\n" + b"\n".join(b"c a" for _ in range(1000)))
    content = {
        "short": whole[:-20],
        "flipped": whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:],
        "few": whole,
        "not merges": gzip.compress(b"hello\n" * 60_000),
    }[damage]
    path = tmp_path / MERGES_FILE_NAME
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a vocabulary"):
        read_vocabulary(path)


def test_the_installed_vocabulary_is_found_without_importing_its_package():
    path = installed_vocabulary()
    assert path is not None
    assert path.name == MERGES_FILE_NAME
    assert "open_clip" not in sys.modules


def test_without_open_clip_there_is_no_installed_vocabulary(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert installed_vocabulary() is None


@pytest.mark.parametrize(
    "record", ["open_clip/tokenizer.py,,\n", f"open_clip/{MERGES_FILE_NAME},,\n"]
)
def test_an_open_clip_without_the_file_has_no_vocabulary(tmp_path, monkeypatch, record):
    info = tmp_path / "open_clip_torch-3.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: open_clip_torch\nVersion: 3.3.0\n")
    (info / "RECORD").write_text(record)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_vocabulary() is None
