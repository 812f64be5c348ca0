"""Tar archives: listed from their headers, read without unpacking, damaged in many ways."""

import gzip
import io
import json
import logging
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.source_samples import listed, open_one, write, write_tar

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageTruncatedError,
    ImageUnreadableError,
    SourceNotFoundError,
)
from perception_encoder.sources import SourceOptions, open_sources, read_image

FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
LONG = f"{'folder/' * 30}{'long' * 30}.jpg"


def test_members_have_their_offset_size_and_the_archives_time(tmp_path):
    data = {"a.jpg": b"A" * 1000, "b/c.PNG": b"B" * 3, "notes.md": b"no", "d.webp": b""}
    path = write_tar(tmp_path / "x.tar", data)
    items = listed(path)
    assert [item.member for item in items] == ["a.jpg", "b/c.PNG", "d.webp"]
    assert {item.uri for item in items} == {str(path)}
    assert {item.mtime for item in items} == {path.stat().st_mtime_ns}
    whole = path.read_bytes()
    for item in items:
        assert item.bytes == len(data[item.member])
        assert whole[item.offset : item.offset + item.bytes] == data[item.member] == item.read()
        assert read_image(item.uri, item.member, item.offset, item.bytes) == data[item.member]
        assert read_image(item.uri, item.member) == data[item.member]
    assert len({item.id for item in items}) == 3


names = st.text("abc/.é ", min_size=1, max_size=20).map(lambda name: f"x{name}y.png")
members = st.dictionaries(names, st.binary(max_size=1500), max_size=8)


@settings(max_examples=60, deadline=None)
@given(members=members, format=st.sampled_from(FORMATS), long=st.booleans())
def test_any_archive_lists_as_tarfile_does(tmp_path_factory, members, format, long):
    if long and format != tarfile.USTAR_FORMAT:
        members |= {LONG: b"long"}
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    write_tar(path, members, format=format)
    with tarfile.open(path) as archive:
        expected = [
            (member.name, member.offset_data, archive.extractfile(member).read())
            for member in archive
        ]
    assert [(item.member, item.offset, item.read()) for item in listed(path)] == expected
    for name, offset, data in expected:
        assert read_image(str(path), name, offset) == data


def test_links_folders_and_other_things_in_an_archive_are_no_images(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("folder.jpg", tarfile.DIRTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a.jpg"
            archive.addfile(header)
        header = tarfile.TarInfo("a.jpg")
        header.size = 3
        archive.addfile(header, io.BytesIO(b"abc"))
    assert [(item.member, item.read()) for item in listed(path)] == [("a.jpg", b"abc")]


def test_what_lies_beside_an_image_becomes_its_metadata(tmp_path):
    first = {"caption": "from json", "width": 640, "score": 0.5, "ok": True, "none": None,
             "tags": ["a", "größer"], "sizes": [1, 2], "more": {"x": 1}, "_key.x": "y"}  # fmt: skip
    path = write_tar(
        tmp_path / "x.tar",
        {
            "000.jpg": b"0", "000.json": json.dumps(first).encode(), "000.txt": b"from text\n",
            "001.txt": "größe".encode(), "001.cls": b"7\n", "001.png": b"1", "001.seg.png": b"1s",
            "002.jpg": b"2",
            "n1/003.cls": b"dog", "n1/003.jpg": b"3",
            "n2/003.jpg": b"4",
        },
    )  # fmt: skip
    found = {item.member: item.metadata for item in listed(path)}
    assert found == {
        "000.jpg": {
            "caption": "from json", "width_": 640, "score": 0.5, "ok": True, "none": None,
            "tags": "a\ngrößer", "key_x": "y",
        },
        "001.png": {"caption": "größe", "label": 7},
        "001.seg.png": {"caption": "größe", "label": 7},
        "002.jpg": {},
        "n1/003.jpg": {"label": "dog"},
        "n2/003.jpg": {},
    }  # fmt: skip


def test_damaged_metadata_costs_only_itself_and_is_told(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = write_tar(
        tmp_path / "x.tar",
        {"0.jpg": b"0", "0.json": b"{damaged", "0.cls": b"1", "1.json": b"[1]", "1.jpg": b"1"},
    )
    assert [item.metadata for item in listed(path)] == [{"label": 1}, {}]
    assert "metadata of 1 images is damaged" in caplog.text


def test_many_images_of_one_key_are_all_listed(tmp_path):
    path = write_tar(tmp_path / "x.tar", {f"k.{number:03}.jpg": b"x" for number in range(200)})
    assert len(listed(path)) == 200


@pytest.mark.parametrize(
    ("ending", "mode"),
    [("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")],
)
def test_packed_archives_are_read_in_order_without_offsets(tmp_path, ending, mode):
    data = {f"{number:03}.jpg": os.urandom(500) for number in range(150)}
    path = write_tar(tmp_path / f"x.{ending}", data, mode=mode)
    items = listed(path)
    assert {item.member: item.bytes for item in items} == dict.fromkeys(data, 500)
    assert {item.offset for item in items} == {None}
    shuffled = list(items)
    random.Random(0).shuffle(shuffled)
    with ThreadPoolExecutor(8) as pool:
        for item, read in zip(items, pool.map(lambda item: item.read(), items), strict=True):
            assert read == data[item.member]
    for item in shuffled[:10]:  # right in any order, if slower
        assert item.read() == data[item.member]
    assert read_image(items[70].uri, items[70].member, None) == data[items[70].member]


def test_members_are_read_by_many_threads_at_once(tmp_path):
    data = {f"{number:03}.jpg": os.urandom(3000 + number) for number in range(300)}
    items = listed(write_tar(tmp_path / "x.tar", data))
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda item: item.read(), items))
    assert read == list(data.values())


def test_brace_lists_of_archives_are_one_source(tmp_path):
    for number in range(12):
        write_tar(tmp_path / f"{number:05}.tar", {f"{number}.jpg": b"x"})
    source = open_one(f"{tmp_path}/{{00000..00010}}.tar")
    assert [item.member for item in source.items()] == [f"{number}.jpg" for number in range(11)]
    assert source.name == f"{tmp_path}/{{00000..00010}}.tar"
    assert source.covers(f"{tmp_path}/00003.tar", "gone.jpg")
    assert not source.covers(f"{tmp_path}/00003.tar", "gone.json")
    assert not source.covers(f"{tmp_path}/00011.tar", "11.jpg")
    with pytest.raises(SourceNotFoundError, match=r"00012\.tar, .* no such file"):
        open_one(f"{tmp_path}/{{00000..00013}}.tar")


def test_a_glob_of_archives_lists_them_and_remembers_those_that_have_gone(tmp_path):
    for name in ("b.tar", "a.tar", "c.tar.gz"):
        write_tar(tmp_path / name, {f"{name}.jpg": b"x"}, mode="w:gz" if "gz" in name else "w")
    source = open_one(f"{tmp_path}/*.tar")
    assert [item.member for item in source.items()] == ["a.tar.jpg", "b.tar.jpg"]
    assert source.covers(f"{tmp_path}/gone.tar", "x.jpg")
    assert not source.covers(f"{tmp_path}/c.tar.gz", "x.jpg")
    with pytest.raises(SourceNotFoundError):
        open_one(f"{tmp_path}/*.tgz")


def test_archives_named_one_after_the_other_are_one_source(tmp_path):
    paths = [write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": b"x"}) for name in "ab"]
    (source,) = open_sources([str(path) for path in paths], SourceOptions())
    assert [item.member for item in source.items()] == ["a.jpg", "b.jpg"]


def damaged_items(path):
    """The items before the damage, and the message of the one that tells of it."""
    source = open_one(path)
    *good, bad = source.items()
    assert (bad.uri, bad.member) == (str(path), None)
    assert not source.covers(str(path), "gone.jpg")
    with pytest.raises(ImageUnreadableError) as caught:
        bad.read()
    assert str(caught.value).startswith(f"{path}: the archive is damaged or cut off")
    return good, str(caught.value)


def test_a_truncated_archive_gives_what_is_whole_and_then_says_so(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"A" * 2000, "b.jpg": b"B" * 2000})
    path.write_bytes(path.read_bytes()[: 512 + 2048 + 512 + 700])
    good, message = damaged_items(path)
    assert "unexpected end of data" in message
    assert [item.member for item in good] == ["a.jpg", "b.jpg"]
    assert good[0].read() == b"A" * 2000
    with pytest.raises(ImageTruncatedError, match=r"x\.tar/b\.jpg: the file ends 1300 bytes"):
        good[1].read()


def test_an_archive_cut_inside_a_header_says_where(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"A" * 2000, "b.jpg": b"B" * 2000})
    path.write_bytes(path.read_bytes()[: 512 + 2048 + 100])
    good, message = damaged_items(path)
    assert [item.member for item in good] == ["a.jpg"]
    assert "truncated header at byte 2,560" in message


def test_a_header_that_is_overwritten_does_not_pass_for_the_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"A" * 2000, "b.jpg": b"B", "c.jpg": b"C"})
    data = bytearray(path.read_bytes())
    data[2560:2660] = b"\xee" * 100
    path.write_bytes(data)
    good, message = damaged_items(path)
    assert [item.member for item in good] == ["a.jpg"]
    assert "bad checksum at byte 2,560" in message


@pytest.mark.parametrize("data", [b"", b"no archive at all" * 100, b"\x1f\x8b" + b"x" * 600])
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_what_is_no_archive_is_one_item(tmp_path, data, ending):
    good, _ = damaged_items(write(tmp_path / f"x.{ending}", data))
    assert good == []


def test_a_truncated_packed_archive_gives_what_is_whole(tmp_path):
    data = {f"{number}.jpg": os.urandom(2000) for number in range(20)}
    path = write_tar(tmp_path / "x.tar.gz", data, mode="w:gz")
    path.write_bytes(path.read_bytes()[:22_000])
    good, message = damaged_items(path)
    assert "end" in message
    assert 8 <= len(good) <= 11
    for item in good[:-1]:
        assert item.read() == data[item.member]


def test_damage_inside_packed_data_is_told(tmp_path):
    data = {f"{number}.jpg": os.urandom(2000) for number in range(20)}
    path = write_tar(tmp_path / "x.tar.gz", data, mode="w:gz")
    packed = bytearray(path.read_bytes())
    packed[-30_000:-29_990] = b"\0" * 10
    path.write_bytes(packed)
    source = open_one(path)
    failures = []
    for item in source.items():
        try:
            item.read()
        except ImageUnreadableError as err:
            failures.append(err)
    assert failures


def test_one_damaged_archive_does_not_keep_the_next_one_from_being_listed(tmp_path):
    write(tmp_path / "0.tar", b"nothing")
    write_tar(tmp_path / "1.tar", {"a.jpg": b"x"})
    bad, good = listed(f"{tmp_path}/{{0,1}}.tar")
    assert (bad.member, good.member) == (None, "a.jpg")


def test_an_archive_that_goes_away_between_naming_and_listing_is_one_item(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"x"})
    source = open_one(path)
    path.unlink()
    (bad,) = source.items()
    with pytest.raises(ImageUnreadableError, match=r"x\.tar: there is no file"):
        bad.read()


def test_a_member_whose_name_is_not_unicode_is_an_item_that_says_so(tmp_path):
    path = write_tar(
        tmp_path / "x.tar", {"caf\udce9.jpg": b"x", "b.jpg": b"y"}, format=tarfile.GNU_FORMAT
    )
    bad, good = listed(path)
    assert good.read() == b"y"
    bad.member.encode()
    with pytest.raises(ImageUnreadableError, match="not valid Unicode"):
        bad.read()


def test_an_archive_written_anew_never_gives_another_image_for_an_old_row(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"A" * 600, "b.jpg": b"B" * 600})
    a, b = listed(path)
    write_tar(path, {"b.jpg": b"new b", "c.jpg": b"C" * 600})
    assert read_image(b.uri, b.member, b.offset) == b"new b"
    with pytest.raises(ImageNotFoundError, match=r"x\.tar/a\.jpg: the archive has no such member"):
        read_image(a.uri, a.member, a.offset)
    write_tar(path, {"c.jpg": b"short"})
    with pytest.raises(ImageNotFoundError):
        read_image(b.uri, b.member, b.offset)


def test_images_with_long_names_are_read_again_at_once(tmp_path):
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_tar(
            tmp_path / f"{format}.tar", {LONG: b"x", f"{LONG}.jpg": b"y"}, format=format
        )
        first, second = listed(path)
        assert read_image(first.uri, first.member, first.offset) == b"x"
        assert read_image(second.uri, second.member, second.offset) == b"y"


def test_reading_again_what_has_gone_names_the_archive(tmp_path):
    with pytest.raises(ImageNotFoundError, match=r"no\.tar"):
        read_image(str(tmp_path / "no.tar"), "a.jpg", 512)
    with pytest.raises(ImageNotFoundError, match=r"no\.tar"):
        read_image(str(tmp_path / "no.tar"), "a.jpg")
    bad = write(tmp_path / "bad.tar", gzip.compress(b"x"))
    with pytest.raises(ImageUnreadableError, match=r"bad\.tar/a\.jpg: the archive is damaged"):
        read_image(str(bad), "a.jpg")


def test_listing_keeps_only_a_few_members_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "x.tar"
    write_tar(path, {f"{number:06}.jpg": b"" for number in range(3000)})
    peaks = []
    for count in (500, 3000):
        items = open_one(path).items()
        next(items)
        tracemalloc.start()
        for _ in zip(range(count - 1), items, strict=False):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000
