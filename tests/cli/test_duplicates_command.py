"""`pe duplicates` as people run it: real files, a real index, real processes."""

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from cli.command import pe_ending
from PIL import Image
from small_models import drawing


def pe(*arguments: str, folder: Path, returns: int = 0) -> subprocess.CompletedProcess[str]:
    return pe_ending(*arguments, folder=folder, returns=returns, PE_INDEX="t.lance")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of one drawing, one of them in a tar, a drawing unlike it, and their index."""
    root = tmp_path_factory.mktemp("work")
    images = root / "images"
    images.mkdir()
    one = drawing(1, 120, 90)
    one.save(images / "large.png")
    one.save(images / "lossless.bmp")
    one.resize((60, 45), Image.Resampling.LANCZOS).save(images / "it's small.png")
    drawing(2, 120, 90).save(images / "other.png")
    with tarfile.open(images / "all.tar", "w") as tar:
        tar.add(images / "large.png", "inside.png")
    pe("index", "images", "images/all.tar", folder=root)
    return root


def test_groups_as_json_an_index_and_a_sheet(folder: Path) -> None:
    done = pe("duplicates", "--json", "--sheet", "groups.png", folder=folder)
    (group,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert group["tier"] == "near duplicate"
    assert group["keep"]["uri"] == str(folder / "images" / "lossless.bmp")
    assert [(Path(o["uri"]).name, o["member"], o["tier"]) for o in group["others"]] == [
        ("all.tar", "inside.png", "identical pixels"),
        ("large.png", None, "identical pixels"),
        ("it's small.png", None, "near duplicate"),
    ]
    assert group["others"][0]["score"] == 1
    assert 0.98 <= group["others"][2]["score"] < 1
    assert "1 group: 3 of 5 images are redundant (2 identical pixels, 1 near" in done.stderr
    with Image.open(folder / "groups.png") as sheet:
        assert sheet.width > sheet.height > 100
    index = pe("duplicates", "--tier", "bytes", "--keep", "first", folder=folder).stdout
    assert [line.split()[-1].rsplit("/", 1)[-1] for line in index.splitlines()] == [
        "image", "inside.png", "large.png",
    ]  # fmt: skip


def test_paths_are_fit_for_xargs_and_never_name_an_archive(folder: Path) -> None:
    done = pe("duplicates", "-0", "--tier", "near", folder=folder)
    assert "not included" not in done.stderr
    names = [Path(path).name for path in done.stdout.split("\0")[:-1]]
    assert names == ["large.png", "it's small.png"]
    assert "1 in archives or at URLs are not listed" in done.stderr
    wide = pe("duplicates", "--paths", "--where", "width > 100", folder=folder)
    assert wide.stdout == f"{folder / 'images' / 'large.png'}\n"


def test_what_is_listed_for_removal_has_equal_pixels_unless_more_is_wanted(folder: Path) -> None:
    safe = pe("duplicates", "--paths", "--script", "safe.sh", folder=folder)
    assert safe.stdout == f"{folder / 'images' / 'large.png'}\n"
    assert "near duplicates are not included" in safe.stderr
    assert (folder / "safe.sh").read_text(encoding="utf-8").count(" && rm -- ") == 1


def test_the_script_is_written_and_nothing_is_removed(folder: Path) -> None:
    pe("duplicates", "--tier", "near", "--script", "remove.sh", folder=folder)
    images = sorted(os.listdir(folder / "images"))
    assert len(images) == 5
    lines = (folder / "remove.sh").read_text(encoding="utf-8").splitlines()
    assert sum(" && rm -- " in line for line in lines) == 2


def test_moving_asks_first_and_then_nothing_is_left_to_move(folder: Path) -> None:
    refused = pe("duplicates", "--move-to", "away", folder=folder, returns=2)
    assert "--dry-run" in refused.stderr
    assert "--move-to" in pe("duplicates", "--yes", folder=folder, returns=2).stderr
    dry = pe("duplicates", "--tier", "near", "--move-to", "away", "--dry-run", folder=folder)
    assert not (folder / "away").exists()
    moved = pe("duplicates", "--tier", "near", "--move-to", "away", "--yes", folder=folder)
    assert moved.stdout == dry.stdout
    assert "all.tar: stays: it is in an archive or at a URL" in moved.stderr
    assert sorted(os.listdir(folder / "away")) == ["it's small.png", "large.png", "moved.jsonl"]
    again = pe("duplicates", "--json", folder=folder)
    assert [len(json.loads(line)["others"]) for line in again.stdout.splitlines()] == [1]
    assert again.stderr.count("has gone or cannot be read") == 2
