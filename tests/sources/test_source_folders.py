"""Folders and globs: what is listed, in which order, and what is taken for gone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sources.source_samples import below, listed, open_one, write

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageUnreadableError,
    SourceNotFoundError,
)
from perception_encoder.index import Row, row_id
from perception_encoder.sources import SourceOptions, open_sources


def test_a_folder_lists_its_images_with_size_and_time_and_reads_none_of_them(tmp_path):
    path = write(tmp_path / "a.JPG", b"12345")
    write(tmp_path / "notes.txt")
    (item,) = listed(tmp_path)
    assert (item.uri, item.member, item.bytes) == (str(path), None, 5)
    assert item.mtime == path.stat().st_mtime_ns
    assert item.id == row_id(str(path))
    assert not item.is_remote
    path.write_bytes(b"changed")
    assert item.read() == b"changed"


def test_the_order_is_that_of_names_with_a_folders_own_files_first(tmp_path):
    for name in ("b/2.png", "b/1.png", "a/z.png", "c.png", "a.png", "a/inner/x.png"):
        write(tmp_path / name)
    expected = ["a.png", "c.png", "a/z.png", "a/inner/x.png", "b/1.png", "b/2.png"]
    assert below(tmp_path, listed(tmp_path)) == expected


def test_hidden_files_and_folders_are_listed_when_asked_for(tmp_path):
    for name in ("a.png", ".b.png", ".c/d.png"):
        write(tmp_path / name)
    assert below(tmp_path, listed(tmp_path)) == ["a.png"]
    assert below(tmp_path, listed(tmp_path, include_hidden=True)) == [".b.png", "a.png", ".c/d.png"]


def test_the_top_itself_may_be_hidden(tmp_path):
    write(tmp_path / ".photos" / "a.png")
    assert len(listed(tmp_path / ".photos")) == 1


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("node_modules", {"node_modules/e.jpg"}),
        ("*.tmp.jpg", {"a.tmp.jpg"}),
        ("raw/**", {"raw/b.jpg", "raw/deep/c.jpg"}),
        ("raw/*.jpg", {"raw/b.jpg"}),
        ("/raw", {"raw/b.jpg", "raw/deep/c.jpg"}),
        ("raw/", {"raw/b.jpg", "raw/deep/c.jpg", "x/raw/d.jpg"}),
        ("**/raw/*.jpg", {"raw/b.jpg", "x/raw/d.jpg"}),
        ("x/**/d.jpg", {"x/raw/d.jpg"}),
        ("a.jpg/", set()),
        ("[ab].jpg", {"a.jpg", "raw/b.jpg"}),
        ("[!a].jpg", {"node_modules/e.jpg", "raw/b.jpg", "raw/deep/c.jpg", "x/raw/d.jpg"}),
        ("[b-d].jpg", {"raw/b.jpg", "raw/deep/c.jpg", "x/raw/d.jpg"}),
        ("*a*.jpg", {"a.jpg", "a.tmp.jpg"}),
    ],
)
def test_excludes_are_those_of_gitignore(tmp_path, pattern, left_out):
    names = [
        "a.jpg", "a.tmp.jpg", "node_modules/e.jpg", "raw/b.jpg", "raw/deep/c.jpg", "x/raw/d.jpg",
    ]  # fmt: skip
    for name in names:
        write(tmp_path / name)
    source = open_one(tmp_path, exclude=(pattern,))
    assert below(tmp_path, source.items()) == [name for name in names if name not in left_out]
    for name in names:  # what is asked by name is answered as what is listed
        assert source.covers(str(tmp_path / name), None) == (name not in left_out), name
    if shutil.which("git"):
        assert ignored_by_git(tmp_path, pattern, names) == left_out


@pytest.mark.parametrize(
    "name",
    ["[2019-12-25] trip", "[2012-2015]", "[z-a]", "[]", "[!]", "[^]", "[", "a[", "[a&&b]", "[a||b]",
     "[[:x:]]", "[--~]", "[a~~b]", "x]", "[\\]", "(a|b)", "a+b", "^$", "{1}"],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_name_with_brackets_means_itself(tmp_path, monkeypatch, name):
    for folder in (name, "other"):
        write(tmp_path / folder / "1.png")
    monkeypatch.chdir(tmp_path)
    for pattern in (name, f"{name}/", f"/{name}", f"{name}/*.png"):
        source = open_one(tmp_path, exclude=(pattern,))
        assert below(tmp_path, source.items()) == ["other/1.png"]
    for pattern in (f"{name}/*.png", f"{name}/**", f"{{other,{name}}}/*.png"):
        sources = open_sources([pattern], SourceOptions())
        found = [item for source in sources for item in source.items()]
        assert f"{name}/1.png" in below(tmp_path, found)


def test_a_class_of_characters_still_is_one(tmp_path):
    for name in ("a", "b", "]", "-", "^", "c-d"):
        write(tmp_path / f"{name}.png")
    classes = {"[ab]": "ab", "[a-b]": "ab", "[!a-b]": "-]^", "[]]": "]", "[a-]": "-a", "[-a]": "-a",
               "[b^]": "^b", "[!]]": "-^ab"}  # fmt: skip
    for pattern, expected in classes.items():
        found = listed(tmp_path / f"{pattern}.png")
        assert below(tmp_path, found) == sorted(f"{char}.png" for char in expected), pattern


def test_a_glob_below_folders_named_like_globs_that_has_no_match_says_so(tmp_path):
    write(tmp_path / "[ab]" / "1.png")
    with pytest.raises(SourceNotFoundError, match=r"2\.png: no such file"):
        open_one(tmp_path / "[ab]" / "2.png")


def ignored_by_git(folder, pattern, names):
    subprocess.run(["git", "init", "-q", folder], check=True, timeout=200)
    (folder / ".gitignore").write_text(pattern)
    done = subprocess.run(
        ["git", "-C", folder, "check-ignore", *names], capture_output=True, text=True, timeout=200
    )
    return set(done.stdout.split())


def test_links_to_files_are_images_of_their_own(tmp_path):
    write(tmp_path / "away" / "b.png", b"1234")
    folder = tmp_path / "photos"
    write(folder / "a.png")
    (folder / "link.png").symlink_to(tmp_path / "away" / "b.png")
    first, second = listed(folder)
    assert (first.uri, second.uri) == (str(folder / "a.png"), str(folder / "link.png"))
    assert (second.bytes, second.read()) == (4, b"1234")


def test_links_to_folders_are_followed_and_never_in_circles(tmp_path):
    away = tmp_path / "away"
    write(away / "x" / "y.png")
    folder = tmp_path / "photos"
    write(folder / "in" / "a.png")
    (folder / "in" / "circle").symlink_to("..")
    (folder / "in" / "self").symlink_to("self")
    (folder / "up").symlink_to("..")
    (folder / "link").symlink_to(away)
    (away / "x" / "back").symlink_to(folder)
    assert below(folder, listed(folder)) == ["in/a.png", "link/x/y.png"]


def test_each_real_folder_is_listed_once_and_under_its_own_name_rather_than_a_links(tmp_path):
    write(tmp_path / "m" / "a.png")
    (tmp_path / "0-first").symlink_to("m")
    (tmp_path / "z-last").symlink_to("m")
    assert below(tmp_path, listed(tmp_path)) == ["m/a.png"]


def test_a_folder_that_is_itself_a_link_is_listed_under_the_links_name(tmp_path):
    write(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to("real")
    assert below(tmp_path, listed(tmp_path / "link")) == ["link/a.png"]


def test_a_broken_link_is_an_item_that_says_so(tmp_path):
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (item,) = listed(tmp_path)
    with pytest.raises(ImageNotFoundError, match=r"gone\.png: there is no file"):
        item.read()


def test_a_pipe_named_like_an_image_does_not_stop_the_run(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (item,) = listed(tmp_path)
    with pytest.raises(ImageUnreadableError, match="not a regular file"):
        item.read()


def test_a_name_in_an_old_encoding_is_an_item_whose_name_can_be_stored(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(b"x")
    (item,) = listed(tmp_path)
    assert Row(uri=item.uri).id == item.id
    with pytest.raises(ImageUnreadableError, match="not valid Unicode and cannot be stored"):
        item.read()


def test_what_was_deleted_after_the_listing_is_an_error_of_that_image(tmp_path):
    path = write(tmp_path / "a.png")
    (item,) = listed(tmp_path)
    path.unlink()
    with pytest.raises(ImageNotFoundError):
        item.read()


def test_a_folder_that_cannot_be_read_is_one_item_and_nothing_below_it_is_taken_for_gone(
    tmp_path, monkeypatch
):
    write(tmp_path / "a.png")
    closed = str(write(tmp_path / "closed" / "b.png").parent)
    real = os.scandir

    def scandir(path):
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = open_one(tmp_path)
    good, bad = source.items()
    assert (good.uri, bad.uri) == (str(tmp_path / "a.png"), closed)
    with pytest.raises(ImageUnreadableError, match="closed: the folder cannot be read: Permission"):
        bad.read()
    assert not source.covers(f"{closed}/b.png", None)
    assert source.covers(str(tmp_path / "b.png"), None)
    monkeypatch.undo()
    assert below(tmp_path, source.items()) == ["a.png", "closed/b.png"]
    assert source.covers(f"{closed}/gone.png", None)
    assert source.covers(closed, None)  # its failure is over


def test_only_what_the_folder_would_list_is_taken_for_gone(tmp_path):
    write(tmp_path / "a.png")
    source = open_one(tmp_path)
    list(source.items())
    covered = {
        "gone.png": True,
        "deep/down/gone.png": True,
        "gone.txt": False,
        ".hidden.png": False,
        ".hidden/gone.png": False,
    }
    for name, expected in covered.items():
        assert source.covers(str(tmp_path / name), None) == expected, name
    assert not source.covers(f"{tmp_path}-2/gone.png", None)
    assert not source.covers(str(tmp_path / "gone.png"), "member")
    assert not source.covers("s3://bucket/gone.png", None)


def test_below_a_link_that_leads_nowhere_nothing_is_taken_for_gone(tmp_path):
    (tmp_path / "disk").symlink_to("/mnt/not-mounted")
    source = open_one(tmp_path)
    assert list(source.items()) == []
    assert not source.covers(str(tmp_path / "disk" / "a.png"), None)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "x/b.jpg", "x/y/c.jpg", "z/g.jpg"]),
        ("x/**", ["x/b.jpg", "x/d.png", "x/y/c.jpg"]),
        ("x/*", ["x/b.jpg", "x/d.png"]),
        ("*/*.jpg", ["x/b.jpg", "z/g.jpg"]),
        ("x/**/c.*", ["x/y/c.jpg"]),
        ("**/y/*.jpg", ["x/y/c.jpg"]),
        ("*.dat", ["e.dat"]),
        ("**/.h/*.jpg", [".h/f.jpg"]),
        ("{a,x/b}.*", ["a.jpg", "x/b.jpg"]),
        ("{x/y,z}/*.jpg", ["x/y/c.jpg", "z/g.jpg"]),
        ("[ax].jpg", ["a.jpg"]),
    ],
)
def test_globs_list_what_they_match(tmp_path, monkeypatch, pattern, expected):
    names = [
        "a.jpg", "x/b.jpg", "x/y/c.jpg", "x/d.png", "e.dat", ".h/f.jpg", "x/notes.txt", "z/g.jpg",
    ]  # fmt: skip
    for name in names:
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    sources = open_sources([pattern], SourceOptions())
    found = [item for source in sources for item in source.items()]
    assert below(tmp_path, found) == expected
    for name in names:
        is_covered = any(source.covers(str(tmp_path / name), None) for source in sources)
        assert is_covered == (name in expected), name


def test_a_glob_without_matches_is_an_empty_source_as_its_images_may_have_gone(tmp_path):
    source = open_one(tmp_path / "*.jpg")
    assert list(source.items()) == []
    assert source.covers(str(tmp_path / "gone.jpg"), None)
    assert not source.covers(str(tmp_path / "gone.png"), None)


def test_a_file_named_like_a_glob_wins_over_the_glob(tmp_path):
    write(tmp_path / "a1.jpg")
    path = write(tmp_path / "a[1].jpg")
    assert below(tmp_path, listed(path)) == ["a[1].jpg"]


def test_a_glob_in_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"nowhere/\*\.jpg: no such file or folder"):
        open_one(tmp_path / "nowhere" / "*.jpg")


def test_the_same_order_each_time(tmp_path: Path):
    for number in range(50):
        write(tmp_path / f"{number * 7919 % 50}" / "a.png")
    source = open_one(tmp_path)
    assert [item.uri for item in source.items()] == [item.uri for item in source.items()]
