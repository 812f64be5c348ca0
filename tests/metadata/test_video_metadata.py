"""When, where and with what a video was taken; exiftool writes what cameras write."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import open_tiny
from video_clips import SCENES, write_clip

from perception_encoder.index import Index
from perception_encoder.indexing import MetadataRefresh, Run, RunOptions
from perception_encoder.metadata import PhotoMetadata, read_video_metadata
from perception_encoder.sources import SourceOptions, open_sources

PHONE = PhotoMetadata(
    taken_at=datetime(2023, 5, 4, 12),
    taken_offset=120,
    latitude=48.137,
    longitude=11.575,
    altitude=519.0,
    camera="Apple iPhone 15 Pro",
)
KEYS = (
    "-Keys:CreationDate=2023:05:04 12:00:00+02:00",
    "-Keys:GPSCoordinates=48.137, 11.575, 519",
    "-Keys:Make=Apple",
    "-Keys:Model=iPhone 15 Pro",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", SCENES[:2])


def tagged(clip: Path, folder: Path, *tags: str, name: str = "tagged.mp4") -> Path:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    path = Path(shutil.copy(clip, folder / name))
    subprocess.run(["exiftool", "-q", "-overwrite_original", *tags, str(path)], check=True)
    return path


@pytest.mark.parametrize("name", ["tagged.mp4", "tagged.MOV"])
def test_a_phones_video_has_its_local_time_place_and_camera(
    clip: Path, tmp_path: Path, name: str
) -> None:
    assert read_video_metadata(tagged(clip, tmp_path, *KEYS, name=name)) == PHONE


def test_another_cameras_time_is_in_utc(clip: Path, tmp_path: Path) -> None:
    tags = ("-QuickTime:CreateDate=2023:05:04 10:00:00", "-UserData:GPSCoordinates=-16.8, 179.99")
    found = read_video_metadata(tagged(clip, tmp_path, *tags))
    assert (found.taken_at, found.taken_offset) == (datetime(2023, 5, 4, 10), 0)
    assert (found.latitude, found.longitude) == (-16.8, 179.99)


def test_a_video_that_says_nothing_has_nothing(clip: Path, tmp_path: Path) -> None:
    assert read_video_metadata(clip) == PhotoMetadata()
    (tmp_path / "clip.mkv").write_bytes(b"\x1aE\xdf\xa3")
    assert read_video_metadata(tmp_path / "clip.mkv") == PhotoMetadata()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_a_movie_header_of_64_bits_is_read(tmp_path: Path) -> None:
    header = b"\1\0\0\0" + struct.pack(">QQ", 2_082_844_800 + 1_683_194_400, 0)
    (tmp_path / "a.mp4").write_bytes(box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", header)))
    assert read_video_metadata(tmp_path / "a.mp4").taken_at == datetime(2023, 5, 4, 10)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_damage_costs_values_only(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(box(b"ftyp", b"isom") + box(b"moov", _movie()))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found = read_video_metadata(path)
    assert found.latitude is None or -90 <= found.latitude <= 90
    assert found.taken_at is None or 1826 <= found.taken_at.year <= 2100


def _movie() -> bytes:
    def key(name: str) -> bytes:
        return struct.pack(">I4s", 8 + len(name), b"mdta") + name.encode()

    def value(number: int, text: str) -> bytes:
        data = box(b"data", struct.pack(">II", 1, 0) + text.encode())
        return box(number.to_bytes(4, "big"), data)

    names = ("com.apple.quicktime.creationdate", "com.apple.quicktime.location.ISO6709")
    keys = struct.pack(">II", 0, 2) + b"".join(map(key, names))
    items = value(1, "2023-05-04T12:00:00+0200") + value(2, "+48.1370+011.5750+519.000/")
    meta = box(b"hdlr", bytes(24)) + box(b"keys", keys) + box(b"ilst", items)
    return box(b"mvhd", bytes(100)) + box(b"meta", meta)


def test_the_undamaged_movie_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.mov").write_bytes(box(b"moov", _movie()))
    found = read_video_metadata(tmp_path / "a.mov")
    assert (found.taken_at, found.taken_offset) == (datetime(2023, 5, 4, 12), 120)
    assert (found.latitude, found.longitude, found.altitude) == (48.137, 11.575, 519)


def test_moments_of_a_video_have_its_metadata(clip: Path, tmp_path: Path) -> None:
    model = open_tiny()
    path = tagged(clip, tmp_path, *KEYS)
    index = Index.create(tmp_path / "t.lance", model.identity)

    def add(**options: bool) -> None:
        sources = open_sources([str(path)], SourceOptions(videos=True))
        list(Run(model, index, sources, RunOptions(**options)).outcomes())

    add(metadata=False)
    assert "taken_at" not in index.schema.names
    for _ in MetadataRefresh(index).unread():
        pass
    rows = list(index.rows())
    assert rows
    assert {row.metadata["taken_at"] for row in rows} == {PHONE.taken_at}
    again = Path(shutil.copy(path, tmp_path / "again.mp4"))
    path = again
    add()
    assert len(list(index.rows(where="camera = 'Apple iPhone 15 Pro'"))) == 2 * len(rows)
