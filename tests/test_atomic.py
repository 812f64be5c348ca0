"""Files and folders that are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import OutputError


def test_a_file_is_replaced_when_the_block_ends_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_write(path, sync=True) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".json")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a.json"]


def write_half(path: Path, *, is_folder: bool) -> None:
    with atomic_write(path) as temporary:
        if is_folder:
            temporary.mkdir()
            temporary /= "a"
        temporary.write_text("new")
        raise ValueError("half")


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120)  # names have up to 255 bytes
    path.write_text("old")
    with pytest.raises(ValueError, match="half"):
        write_half(path, is_folder=False)
    with pytest.raises(ValueError, match="half"):
        write_half(tmp_path / "folder", is_folder=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_links_stay_links_and_streams_are_written_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "x"
    with atomic_write("/dev/null") as path:
        assert path == Path("/dev/null")


def test_a_path_that_cannot_be_written_raises_the_given_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a"
    with pytest.raises(FileNotFoundError), atomic_write(path) as temporary:
        temporary.touch()
    with (
        pytest.raises(OutputError, match="missing/a: cannot be written: No such file"),
        atomic_write(path, OutputError) as temporary,
    ):
        temporary.touch()
