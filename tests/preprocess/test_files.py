"""Only regular files of a bounded size are opened, whatever a path names."""

import os
import socket
from pathlib import Path

import pytest
from preprocess.preprocess_images import FORMATS

from perception_encoder.errors import (
    ImageEmptyError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
)
from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess import files as files_module
from perception_encoder.preprocess.files import (
    MAX_FILE_BYTES,
    open_regular_file,
    read_image_file,
)

READERS = {
    "decode": decode_image,
    "read": lambda path: read_image_file(path, item=str(path)),
    "open": lambda path: open_regular_file(path, item=str(path)),
}
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def test_a_file_is_read_whole_through_links(tmp_path: Path):
    (tmp_path / "real.png").write_bytes(FORMATS["png"])
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert read_image_file(tmp_path / "link.png", item="link") == FORMATS["png"]
    file, num_bytes = open_regular_file(tmp_path / "link.png", item="link")
    with file:
        assert num_bytes == len(FORMATS["png"])
        assert os.get_blocking(file.fileno())
        assert not os.get_inheritable(file.fileno())


@pytest.mark.parametrize("reader", READERS)
def test_a_sparse_file_is_refused_by_its_size(reader: str, tmp_path: Path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.write(FORMATS["png"])
        file.truncate(8 * 2**30)
    with pytest.raises(ImageTooLargeError, match=r"huge\.png.*8,589,934,592.*1,073,741,824"):
        READERS[reader](path)


def test_the_limit_is_inclusive(tmp_path: Path):
    path = tmp_path / "some.png"
    path.write_bytes(bytes(100))
    assert len(read_image_file(path, item="some", max_bytes=100)) == 100
    with pytest.raises(ImageTooLargeError, match="limit for an image is 99"):
        read_image_file(path, item="some", max_bytes=99)
    open_regular_file(path, item="some", max_bytes=None)[0].close()
    assert MAX_FILE_BYTES >= 178_956_970 * 6, "16-bit RGB of the most pixels must fit"


@needs_pipes
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_and_does_not_hang(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    os.mkfifo("pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.close()
    for path, kind in (
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        ("/dev/zero", "a device"),
        (".", "a folder"),
    ):
        with pytest.raises(ImageUnreadableError, match=f"{kind}.*pass the path of one image"):
            READERS[reader](path)


@needs_pipes
def test_a_pipe_that_takes_a_files_place_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.png"
    path.write_bytes(FORMATS["png"])
    before = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(files_module.os, "stat", lambda _: before)  # type: ignore[attr-defined]
    with pytest.raises(ImageUnreadableError, match="a pipe"):
        open_regular_file(path, item="a.png")


@pytest.mark.parametrize("num_bytes", [500, 5000])
def test_a_file_that_shrinks_or_grows_while_it_is_read(
    num_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(1000))
    before = os.stat(path)
    os.truncate(path, num_bytes)
    monkeypatch.setattr(files_module.os, "fstat", lambda _: before)  # type: ignore[attr-defined]
    if num_bytes > 1000:
        assert len(read_image_file(path, item="a.png", max_bytes=1000)) == 1000
        return
    with pytest.raises(ImageTruncatedError, match="became shorter"):
        read_image_file(path, item="a.png")


def test_missing_and_empty_files(tmp_path: Path):
    with pytest.raises(ImageNotFoundError, match="no such file"):
        read_image_file(tmp_path / "gone.png", item="gone.png")
    with pytest.raises(ImageNotFoundError):
        read_image_file("null\0byte.png", item="null")
    (tmp_path / "empty.png").touch()
    assert read_image_file(tmp_path / "empty.png", item="empty") == b""
    with pytest.raises(ImageEmptyError):
        decode_image(tmp_path / "empty.png")
