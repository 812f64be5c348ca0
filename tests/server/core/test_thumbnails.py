"""Small copies on disk: a damaged one is never served, and a disk that is full does no harm."""

import errno
import io
import logging
import os
from pathlib import Path

import pytest
from PIL import Image
from preprocess import camera_files
from server.serving import image

from perception_encoder.index import Row
from perception_encoder.server.core.images import ENOUGH, Thumbnails, detect_content_type


@pytest.fixture
def row(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(image(1, 400, 300))
    return Row(str(file))


def thumbnails(folder: Path | None) -> Thumbnails:
    return Thumbnails(folder, max_pixels=10**6, allow_remote=False)


def copies(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_copy_is_made_once_and_kept(tmp_path, row):
    made = thumbnails(tmp_path / "kept")
    content = made.get(row, 100)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("JPEG", (128, 96))
    Path(row.uri).unlink()
    assert made.get(row, 128) == content
    assert len(copies(tmp_path / "kept")) == 1


DAMAGES = {
    "emptied": lambda data: data[:0],
    "cut off": lambda data: data[: len(data) // 2],
    "one byte shorter": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "another file": lambda data: b"<html>" * len(data),
    "zeroed page": lambda data: data[:300] + bytes(300) + data[600:],
    "a bit": lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
    "as older versions kept it": lambda data: data[:-16],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_copy_is_made_anew(tmp_path, row, damage):
    made = thumbnails(tmp_path / "kept")
    content = made.get(row, 100)
    (copy,) = copies(tmp_path / "kept")
    copy.write_bytes(damage(copy.read_bytes()))
    assert made.get(row, 100) == content
    Path(row.uri).unlink()
    assert made.get(row, 100) == content


@pytest.mark.parametrize(
    "replace", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)]
)
def test_what_is_no_file_in_a_copys_place_is_not_read(tmp_path, row, replace):
    made = thumbnails(tmp_path / "kept")
    content = made.get(row, 100)
    (copy,) = copies(tmp_path / "kept")
    copy.unlink()
    replace(copy)
    assert made.get(row, 100) == content


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("step", ["mkdir", "write_bytes", "replace"])
def test_a_disk_that_cannot_be_written_is_warned_of_once(
    tmp_path, row, error, step, monkeypatch, caplog
):
    def fail(self, *_, **__):
        raise OSError(error, os.strerror(error), str(self))

    monkeypatch.setattr(Path, step, fail)
    made = thumbnails(tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        assert made.get(row, 100) == made.get(row, 100) == thumbnails(None).get(row, 100)
    (warning,) = caplog.records
    assert os.strerror(error) in warning.getMessage()
    assert str(tmp_path / "kept") in warning.getMessage()
    monkeypatch.undo()
    assert copies(tmp_path / "kept") == []


def test_a_folder_that_is_a_file_is_warned_of(tmp_path, row, caplog):
    (tmp_path / "kept").touch()
    assert thumbnails(tmp_path / "kept").get(row, 100) == thumbnails(None).get(row, 100)
    assert len(caplog.records) == 1


def test_a_raw_file_is_shown_by_its_preview_as_the_camera_was_held(tmp_path):
    scene = Image.new("RGB", (320, 240), (200, 100, 50))
    preview = camera_files.jpeg(scene)
    files = {
        "a.cr2": camera_files.cr2(scene, preview, orientation=6),
        "a.cr3": camera_files.cr3(preview, orientation=6),
        "a.orf": camera_files.orf(scene, preview, orientation=6),
        "a.rw2": camera_files.rw2(scene, preview, orientation=6),
        "a.dng": camera_files.dng(scene, [preview], orientation=6),
    }
    for name, data in files.items():
        assert detect_content_type(data[:ENOUGH]) is not None
        path = tmp_path / name
        path.write_bytes(data)
        with Image.open(io.BytesIO(thumbnails(None).get(Row(str(path)), 128))) as copy:
            assert copy.size == (96, 128)
    assert detect_content_type(camera_files.raf(scene, preview)[:ENOUGH]) == "image/x-fuji-raf"
