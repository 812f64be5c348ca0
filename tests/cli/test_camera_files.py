"""Files that cameras write, from `pe index` to hits: RAW, JPEG XL, pairs and bursts."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pylibjxl
import pytest
from cli.command import pe
from PIL import Image
from preprocess import camera_files
from small_models import drawing
from video_clips import SCENES, gallery, write_clip

from perception_encoder import ImageIndex
from perception_encoder.preprocess import isolated


def photo(seed: int, *, taken: str | None = None, quality: int = 92) -> bytes:
    exif = Image.Exif()
    exif[0x0110] = "Model X"
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken
    buffer = io.BytesIO()
    drawing(seed).convert("RGB").resize((320, 240)).save(buffer, "JPEG", exif=exif, quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("camera")
    (home / "in").mkdir()
    scene = drawing(0).convert("RGB").resize((320, 240))
    content = {
        "IMG_1.DNG": camera_files.dng(scene, [photo(0)], orientation=1),
        "IMG_1.JPG": photo(0, quality=60),
        "IMG_2.NEF": camera_files.nef(scene, photo(1)),
        "burst_1.jpg": photo(2, taken="2026:05:04 12:00:00"),
        "burst_2.jpg": photo(2, taken="2026:05:04 12:00:01", quality=70),
        "burst_3.jpg": photo(2, taken="2026:05:04 12:05:00", quality=80),
        "a.jxl": pylibjxl.encode(np.asarray(drawing(3).convert("RGB"))),
        "developed.dng": camera_files.dng(drawing(4).convert("RGB").resize((320, 240))),
    }
    pillow_heif.from_pillow(gallery(SCENES[0])).save(home / "in" / "IMG_3.HEIC")
    write_clip(home / "in" / "IMG_3.MOV", SCENES[:1], 2.5)
    for name, data in content.items():
        (home / "in" / name).write_bytes(data)
    done = pe("index", "in", "--index", "t.lance", folder=home)
    assert done.returncode == 0, done.stderr
    return home


def found(home: Path, *arguments: str) -> list[list[str]]:
    done = pe("search", *arguments, "--index", "t.lance", "--json", folder=home)
    assert done.returncode == 0, done.stderr
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    return [[Path(name).name for name in (hit["uri"], *hit.get("also", ()))] for hit in hits]


def test_every_file_is_indexed(home):
    assert len(ImageIndex(home / "t.lance")) == 10


def test_a_photo_and_its_raw_file_are_one_hit(home):
    groups = found(home, "@IMG_1.DNG", "-k", "3")
    assert groups[0] == ["IMG_1.JPG", "IMG_1.DNG"]
    apart = found(home, "@IMG_1.DNG", "-k", "2", "--no-pairs")
    assert apart == [["IMG_1.DNG"], ["IMG_1.JPG"]]
    hits = ImageIndex(home / "t.lance").search("@IMG_1.DNG", k=1)
    assert Path(hits[0].uri).name == "IMG_1.JPG"
    assert [Path(hit.uri).name for hit in hits[0].also] == ["IMG_1.DNG"]


def test_a_live_photo_is_one_hit(home):
    assert found(home, "@IMG_3.HEIC", "-k", "1")[0][0] == "IMG_3.HEIC"
    names = [name for group in found(home, "@IMG_3.HEIC", "-k", "20") for name in group[:1]]
    assert "IMG_3.MOV" not in names
    (group,) = found(home, "@IMG_3.HEIC", "-k", "1")
    assert group[1].startswith("00:00:0")  # the moment, by its time
    apart = [one[0] for one in found(home, "@IMG_3.HEIC", "-k", "20", "--no-pairs")]
    assert "IMG_3.MOV" in apart


def test_a_burst_is_one_hit_on_request(home):
    assert sorted(map(len, found(home, "@burst_1.jpg", "-k", "3"))) == [1, 1, 1]
    groups = found(home, "@burst_1.jpg", "-k", "3", "--fold-bursts")
    assert ["burst_1.jpg", "burst_2.jpg"] in [sorted(group) for group in groups]
    assert ["burst_3.jpg"] in groups
    hits = ImageIndex(home / "t.lance").search("@burst_1.jpg", k=1, bursts=True)
    assert len(hits[0].also) == 1
    longer = found(home, "@burst_1.jpg", "-k", "1", "--fold-bursts=600")
    assert sorted(longer[0]) == ["burst_1.jpg", "burst_2.jpg", "burst_3.jpg"]


def test_the_table_counts_what_is_folded(home):
    done = pe("search", "@IMG_1.JPG", "-k", "1", "--index", "t.lance", folder=home)
    assert "IMG_1.JPG  +1" in done.stdout


def test_a_sheet_draws_raw_files(home):
    done = pe(
        "search", "@IMG_2.NEF", "-k", "4", "--index", "t.lance", "--sheet", "a.png", folder=home
    )
    assert done.returncode == 0, done.stderr
    with Image.open(home / "a.png") as sheet:
        assert sheet.width > 0


def test_files_that_need_an_extra_are_reported_with_the_command(home, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.jxl", "developed.dng", "IMG_2.NEF"):
        (tmp_path / "in" / name).write_bytes((home / "in" / name).read_bytes())
    monkeypatch.setattr("sys.path", [one for one in sys.path if "site-packages" not in one])
    isolated.close_children()
    done = pe("index", "in", "--index", "t.lance", folder=tmp_path)
    isolated.close_children()
    assert done.returncode == 1
    assert "pip install 'perception-encoder[jxl]'" in done.stderr
    assert "pip install 'perception-encoder[raw]'" in done.stderr
    assert "2 failed" in done.stderr
    assert len(ImageIndex(tmp_path / "t.lance")) == 1
