"""Named images and lists of names on standard input."""

import io
import os
import subprocess
import sys

import pytest
from sources.source_samples import below, listed, open_one, write

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageUnreadableError,
    SourceError,
    SourceNotFoundError,
)
from perception_encoder.sources import SourceOptions, open_sources


def read_list(text: bytes, **options):
    (source,) = open_sources(["-"], SourceOptions(**options), io.BytesIO(text))
    return list(source.items())


def test_a_list_names_images_line_by_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.png")
    write(tmp_path / "with space.dat", b"123")
    items = read_list(f"a.png\n\n{tmp_path}/with space.dat\r\nhttps://x.example/y.png".encode())
    assert [item.uri for item in items] == [
        f"{tmp_path}/a.png",
        f"{tmp_path}/with space.dat",
        "https://x.example/y.png",
    ]
    assert [item.bytes for item in items] == [5, 3, None]
    assert [item.is_remote for item in items] == [False, False, True]


def test_names_that_end_with_nul_may_hold_newlines(tmp_path):
    path = write(tmp_path / "two\nlines.png")
    write(tmp_path / "b.png")
    text = f"{path}\0{tmp_path}/b.png\0".encode()
    assert below(tmp_path, read_list(text, null_separated=True)) == ["two\nlines.png", "b.png"]


def test_a_list_longer_than_what_is_read_at_once(tmp_path):
    names = [f"{tmp_path}/{'x' * (number % 97)}{number}.png" for number in range(5000)]
    assert [item.uri for item in read_list("\n".join(names).encode())] == names


def test_names_are_used_while_their_writer_still_writes(tmp_path):
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as out:
        (source,) = open_sources(["-"], SourceOptions(), stream)
        items = source.items()
        out.write(f"{tmp_path}/a.png\n".encode())
        assert next(items).uri == f"{tmp_path}/a.png"
        out.write(b"/b.png\n")
        assert next(items).uri == "/b.png"


def test_standard_input_is_the_processes_own():
    code = (
        "from perception_encoder.sources import *\n"
        "for s in open_sources(['-'], SourceOptions()):\n"
        "    for item in s.items(): print(item.uri)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="/x/a.png\n",
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == "/x/a.png\n", done.stderr


def test_names_without_a_file_are_errors_of_their_images(tmp_path):
    missing, folder, old = read_list(f"{tmp_path}/no.png\n{tmp_path}\n/caf".encode() + b"\xe9.png")
    with pytest.raises(ImageNotFoundError, match=r"no\.png: there is no file"):
        missing.read()
    with pytest.raises(ImageUnreadableError, match="this is a folder; name one file"):
        folder.read()
    with pytest.raises(ImageUnreadableError, match="not valid Unicode"):
        old.read()


def test_nothing_is_taken_for_gone_because_a_list_does_not_name_it(tmp_path):
    (source,) = open_sources(["-"], SourceOptions(), io.BytesIO(b"/a.png"))
    list(source.items())
    assert not source.covers("/b.png", None)
    assert not open_one(write(tmp_path / "a.png")).covers(str(tmp_path / "b.png"), None)


def test_files_named_one_after_the_other_are_one_source_in_their_order(tmp_path):
    names = [str(write(tmp_path / name)) for name in ("b.png", "a.jpg", "c.dat")]
    write(tmp_path / "more" / "d.png")
    sources = open_sources([*names, str(tmp_path / "more"), names[0]], SourceOptions())
    assert [below(tmp_path, source.items()) for source in sources] == [
        ["b.png", "a.jpg", "c.dat"],
        ["more/d.png"],
        ["b.png"],
    ]
    assert [source.name for source in sources] == [
        f"{names[0]} and 2 more",
        str(tmp_path / "more"),
        names[0],
    ]


def test_what_does_not_exist_is_named_before_anything_is_read(tmp_path):
    write(tmp_path / "1.png")
    with pytest.raises(SourceNotFoundError, match=r"2\.png, .*3\.png: no such file or folder"):
        open_one(f"{tmp_path}/{{1..3}}.png")
    with pytest.raises(FileNotFoundError, match="and 6 more: no such file"):
        open_one(f"{tmp_path}/{{1..10}}.png")


def test_a_file_with_braces_in_its_name_wins_over_the_pattern(tmp_path):
    path = write(tmp_path / "{a,b}.png")
    assert [item.uri for item in listed(path)] == [str(path)]


def test_file_urls_and_the_home_folder_are_paths(tmp_path, monkeypatch):
    path = write(tmp_path / "with space.png")
    assert [item.uri for item in listed(path.as_uri())] == [str(path)]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [item.uri for item in listed("~/*.png")] == [str(path)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_list_may_have_a_mark_or_be_utf_16(encoding, end, size):
    names = ["/a.png", "/größe 日本.png", "/\U0001f469.png", "/z.png"]
    data = end.join(names).encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data

    class Slow(io.BytesIO):
        def read1(self, _=-1):
            return self.read(size)

    (source,) = open_sources(["-"], SourceOptions(), Slow(data))
    assert [item.uri for item in source.items()] == names


def test_names_of_one_letter_that_nul_ends_are_no_utf_16(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    items = read_list(b"a\0b\0", null_separated=True)
    assert below(tmp_path, items) == ["a", "b"]


@pytest.mark.parametrize("data", [b"/a\0/b\n/c", b"/a.png\0\n/c"])
def test_a_name_with_nul_is_an_item_that_says_so(data):
    bad, good = read_list(data)
    assert good.uri == "/c"
    assert "\0" not in bad.uri
    with pytest.raises(ImageUnreadableError, match="holds a NUL character"):
        bad.read()


def test_half_a_character_at_the_end_costs_its_name_only():
    first, last = read_list("/a.png\n/b.png".encode("utf-16") + b"x")
    assert first.uri == "/a.png"
    with pytest.raises(ImageNotFoundError, match="there is no file"):
        last.read()


def test_what_is_no_list_of_names_is_refused_before_it_fills_the_memory():
    class Endless(io.RawIOBase):
        num_bytes = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.num_bytes += len(buffer)
            assert self.num_bytes < 2**26
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    (source,) = open_sources(["-"], SourceOptions(), io.BufferedReader(Endless()))
    with pytest.raises(SourceError, match="a name of more than 1,048,576 characters"):
        list(source.items())
