"""Captions beside images in archives: kept for their own image, or counted; never given away."""

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from sources.source_samples import open_one

from perception_encoder.errors import ImageTooLargeError, ImageUnreadableError
from perception_encoder.index import MetadataValue
from perception_encoder.sources import tar_samples
from perception_encoder.sources.item import Item, collect_notes
from perception_encoder.sources.tar_members import TarListing, open_tar

Members = Sequence[tuple[str, bytes]]
_TOO_LARGE = r"(a header of more than 2,097,152 bytes|negative size)"


def write(path: Path, members: Members, mode: str = "w") -> Path:
    """Write an archive in which a name may come twice."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def listed(path: Path) -> tuple[list[Item], str]:
    """What an archive holds, and what its listing says of the rest."""
    source = open_one(path)
    items = list(source.items())
    return items, " ".join(collect_notes([source]))


def metadata(items: Sequence[Item]) -> dict[str | None, dict[str, MetadataValue]]:
    return {item.member: dict(item.metadata) for item in items}


def pairs(names: Sequence[str]) -> dict[str, bytes]:
    return {name: name.encode() for name in names}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    "order",
    [
        ("22.00.png", "22.00.txt", "22.01.png", "22.01.txt"),
        ("22.00.png", "22.01.png", "22.00.txt", "22.01.txt"),
        ("22.00.txt", "22.01.txt", "22.01.png", "22.00.png"),
        ("22.01.txt", "22.00.png", "22.00.txt", "22.01.png"),
    ],
)
def test_captions_are_found_by_base_names_with_dots_wherever_they_are(
    tmp_path: Path, order: Sequence[str], mode: str
) -> None:
    path = tmp_path / ("x.tar" if mode == "w" else "x.tar.gz")
    write(path, list(pairs(order).items()), mode)
    items, notes = listed(path)
    assert [item.member for item in items] == [name for name in order if name.endswith("png")]
    for item in items:
        assert item.member is not None
        assert item.metadata == {"caption": f"{item.member[:-4]}.txt"}
        assert item.read() == item.member.encode()
    assert notes == ""


def test_every_kind_of_metadata_is_kept_where_each_kind_comes_apart(tmp_path: Path) -> None:
    members = [(f"{n}.{end}", data) for end, data in
               (("jpg", b"x"), ("json", b'{"n": 1}'), ("txt", b"text"), ("cls", b"3"))
               for n in range(5)]  # fmt: skip
    items, notes = listed(write(tmp_path / "x.tar", members))
    assert [item.metadata for item in items] == [{"n": 1, "caption": "text", "label": 3}] * 5
    assert notes == ""


def test_a_sidecar_may_be_named_after_the_whole_file(tmp_path: Path) -> None:
    members = [("a.jpg", b"a"), ("a.png", b"b"), ("a.jpg.json", b'{"of": "jpg"}'),
               ("a.png.txt", b"of png"), ("a.cls", b"both")]  # fmt: skip
    items, notes = listed(write(tmp_path / "x.tar", members))
    assert metadata(items) == {
        "a.jpg": {"of": "jpg", "label": "both"},
        "a.png": {"caption": "of png", "label": "both"},
    }
    assert notes == ""


def test_names_are_compared_in_one_unicode_form_and_without_a_dot_and_slash(tmp_path: Path) -> None:
    members = [("./cafe\u0301.png", b"a"), ("b.png", b"b"), ("caf\xe9.txt", b"first"),
               ("./b.txt", b"second")]  # fmt: skip
    items, notes = listed(write(tmp_path / "x.tar", members))
    assert [item.metadata for item in items] == [{"caption": "first"}, {"caption": "second"}]
    assert notes == ""


@pytest.mark.parametrize(
    "members",
    [
        ["a.png 1", "a.txt c1", "a.png 2", "a.txt c2"],
        ["a.png 1", "a.png 2", "a.txt c1", "a.txt c2"],
        ["a.txt c1", "a.png 1", "a.txt c2", "a.png 2"],
        ["a.txt c1", "a.png 1", "b.png b", "b.txt cb", "a.png 2", "a.txt c2"],
        ["./a.png 1", "a.png 2", "a.txt c2"],
    ],
)
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_the_second_image_of_a_name_is_refused_and_nothing_is_mixed(
    tmp_path: Path, members: Sequence[str], ending: str
) -> None:
    path = write(
        tmp_path / f"x.{ending}",
        [(one.split()[0], one.split()[1].encode()) for one in members],
        "w" if ending == "tar" else "w:gz",
    )
    items, notes = listed(path)
    first = next(item for item in items if str(item.member).endswith("a.png"))
    assert first.read() == b"1"
    assert dict(first.metadata) in ({"caption": "c1"}, {})
    (second,) = (item for item in items if str(item.member).startswith(("a#", "./a#")))
    with pytest.raises(ImageUnreadableError, match=r"an image named (\./)?a\.png already; rename"):
        second.read()
    assert len({item.id for item in items}) == len(items)
    kept = sum(len(item.metadata) for item in items)
    left_over = sum(one.split()[0].endswith("txt") for one in members) - kept
    assert (f"left out {left_over} members with captions" in notes) == (left_over > 0)
    source = open_one(path)
    list(source.items())
    assert source.covers(second.uri, second.member)  # its failure ends when the archive is mended


def test_what_macos_and_a_nas_put_into_archives_is_left_out_and_counted(tmp_path: Path) -> None:
    apple = b"\0\5\26\7" + bytes(99)
    members = [("./._0.png", apple), ("./0.png", b"0"), ("./._0.txt", apple), ("./0.txt", b"first"),
               ("__MACOSX/._1.png", apple), ("__MACOSX/1.png", apple), ("1.png", b"1"),
               ("@eaDir/1.png/thumb.jpg", b"t"), ("1.txt", b"second")]  # fmt: skip
    items, notes = listed(write(tmp_path / "x.tar", members))
    assert metadata(items) == {"./0.png": {"caption": "first"}, "1.png": {"caption": "second"}}
    assert "left out 5 files that macOS or a NAS keeps beside images" in notes


def test_captions_without_an_image_and_those_that_cannot_be_read_are_counted(
    tmp_path: Path,
) -> None:
    members = [("a.png", b"a"), ("b.txt", b"no image"), ("c/a.txt", b"of another folder"),
               ("a.txt", "größe".encode("latin-1")), ("a.cls", b"7" * 5000),
               ("b.json", b'{"x": 1}'), ("a.json", b"[1]"), ("d.txt", b"x" * (2**20 + 1)),
               ("e.png", b"e"), ("e.txt", "größe".encode("utf-16"))]  # fmt: skip
    items, notes = listed(write(tmp_path / "x.tar", members))
    assert metadata(items) == {"a.png": {"label": "7" * 5000}, "e.png": {"caption": "größe"}}
    assert "3 members with captions" in notes
    assert "3 members with metadata that are too large, not UTF-8, or no JSON object" in notes


def test_a_key_that_comes_twice_is_damage_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = [("a.png", b"a"), ("a.json", b'{"tag": 1, "tag": 2}'), ("a.txt", b"kept")]
    items, _ = listed(write(tmp_path / "x.tar", members))
    assert metadata(items) == {"a.png": {"caption": "kept"}}
    assert "a.json: the key 'tag' is there twice" in caplog.text


def test_images_wait_for_their_captions_in_bounded_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_samples, "MAX_WAITING", 3)
    members = [(f"{n}.png", b"x") for n in range(10)] + [(f"{n}.txt", b"t") for n in range(10)]
    items, notes = listed(write(tmp_path / "x.tar", members))
    assert [item.member for item in items] == [f"{n}.png" for n in range(10)]
    assert [bool(item.metadata) for item in items] == [False] * 7 + [True] * 3
    assert "left out 7 members with captions" in notes


def test_captions_wait_for_their_images_in_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_samples, "MAX_WAITING_BYTES", 3000)
    members = [(f"{n}.txt", b"t" * 500) for n in range(10)] + [
        (f"{n}.png", b"x") for n in range(10)
    ]
    items, notes = listed(write(tmp_path / "x.tar", members))
    assert [bool(item.metadata) for item in items] == [True] * 3 + [False] * 7
    assert "left out 7 members with captions" in notes


def test_sorted_archives_are_listed_as_they_come(tmp_path: Path) -> None:
    members = [(f"{n}.{end}", b"x") for n in range(50) for end in ("png", "txt")]
    path = write(tmp_path / "x.tar", members)
    with path.open("rb") as stream, open_tar(stream, is_packed=False) as archive:
        for number, image in zip(range(10), TarListing(archive).images(), strict=False):
            assert (image.name, image.metadata) == (f"{number}.png", {"caption": "x"})
            assert stream.tell() <= 1024 * (2 * number + 3)


def test_links_and_sparse_members_named_like_images_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, name  # to itself
            archive.addfile(header)
        folder = tarfile.TarInfo("c.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        sparse = tarfile.TarInfo("d.png")
        sparse.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "d.png",
            "GNU.sparse.realsize": "9" * 15,
        }
        data = b"1\n0\n3\n".ljust(512, b"\0") + b"abc"
        sparse.size = len(data)
        archive.addfile(sparse, io.BytesIO(data))
        header = tarfile.TarInfo("e.png")
        header.size = 1
        archive.addfile(header, io.BytesIO(b"e"))
    items, notes = listed(path)
    assert [(item.member, item.read()) for item in items] == [("e.png", b"e")]
    assert "left out 3 links and sparse members" in notes


def raw_header(
    name: str, *, kind: bytes = b"0", size: int = 0, field: bytes | None = None
) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, size
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    if field is not None:
        block[124:136] = field
        total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
        block[148:156] = b"%06o\0 " % total
    return bytes(block)


GOOD = raw_header("a.png", size=3) + b"abc".ljust(512, b"\0")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(raw_header("x", kind=tarfile.XHDTYPE, size=2**33), id="records"),
        pytest.param(raw_header("x", kind=tarfile.GNUTYPE_LONGNAME, size=2**33), id="long name"),
        pytest.param(raw_header("x", kind=tarfile.XGLTYPE, size=5 * 2**20), id="global records"),
        pytest.param(raw_header("b.png", field=(-1024).to_bytes(12, "big", signed=True)),
                     id="circle"),
    ],
)  # fmt: skip
def test_a_header_that_asks_for_too_much_ends_the_listing_and_is_told(
    tmp_path: Path, bad: bytes
) -> None:
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(GOOD + bad)
        file.truncate(2**20 * 6)  # sparse: reading it as the header says would take all memory
    good, damaged = listed(path)[0]
    assert good.read() == b"abc"
    with pytest.raises(ImageUnreadableError, match=_TOO_LARGE):
        damaged.read()


def test_a_sparse_map_without_end_is_told(tmp_path: Path) -> None:
    block = bytearray(raw_header("b.png", kind=tarfile.GNUTYPE_SPARSE, size=0))
    block[482] = 1
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    block[148:156] = b"%06o\0 " % total
    path = tmp_path / "x.tar"
    path.write_bytes(GOOD + bytes(block) + (bytes(504) + b"\1" + bytes(7)) * 70_000)
    good, damaged = listed(path)[0]
    assert good.read() == b"abc"
    with pytest.raises(ImageUnreadableError, match=_TOO_LARGE):
        damaged.read()


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_member_larger_than_any_image_is_refused_by_its_size(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("access", "tars"):
        monkeypatch.setattr(f"perception_encoder.sources.{module}.MAX_FILE_BYTES", 1000)
    members = [("a.png", b"a" * 1000), ("b.png", b"b" * 1001), ("c.png", b"c")]
    path = write(tmp_path / f"x.{ending}", members, "w" if ending == "tar" else "w:gz")
    first, large, last = listed(path)[0]
    assert (first.read(), last.read()) == (b"a" * 1000, b"c")
    with pytest.raises(ImageTooLargeError, match=r"b\.png: the image has 1,001 bytes"):
        large.read()


def test_zeros_without_end_after_the_last_member_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.sources.tars._MAX_PADDING", 2**17)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(2**20)))
    good, damaged = listed(path)[0]
    assert good.read() == b"abc"
    with pytest.raises(ImageUnreadableError, match="bytes come after its last member"):
        damaged.read()


def test_images_of_a_packed_archive_are_kept_by_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.sources.tars._MAX_KEPT_BYTES", 2500)
    members = [(f"{n}.png", bytes([n]) * 1000) for n in range(10)]
    items, _ = listed(write(tmp_path / "x.tar.gz", members, "w:gz"))
    assert [item.read() for item in items] == [data for _, data in members]
    reader = items[0].read.args[0]  # type: ignore[attr-defined]
    assert len(reader._kept) == 2
    assert [item.read() for item in reversed(items)] == [data for _, data in reversed(members)]
    assert len(reader._kept) <= 2
