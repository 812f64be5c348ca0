"""`pe` with the date, place and camera of photos: runs, refreshes and options of commands."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import pytest
from cli.command import pe
from PIL import Image
from small_models import drawing

from perception_encoder import ImageIndex
from perception_encoder.errors import QueryError

_GPS, _IFD = 0x8825, 0x8769


def save_photo(path: Path, seed: int, taken: str, camera: str, latitude: float) -> None:
    exif = Image.Exif()
    exif[0x0110] = camera
    exif.get_ifd(_IFD)[0x9003] = taken
    exif.get_ifd(_GPS).update({1: "N", 2: (latitude, 0.0, 0.0), 3: "E", 4: (11.5, 0.0, 0.0)})
    drawing(seed).save(path, exif=exif)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "in").mkdir()
    save_photo(home / "in/old.jpg", 0, "2019:08:01 12:00:00", "Canon EOS R5", 48.0)
    save_photo(home / "in/new.jpg", 1, "2023:05:04 12:00:00", "NIKON Z 6", 50.0)
    drawing(2).save(home / "in/plain.png")
    done = pe("index", "in", "--index", "t.lance", folder=home)
    assert done.returncode == 0, done.stderr
    plain = pe("index", "in", "--index", "none.lance", "--no-metadata", folder=home)
    assert plain.returncode == 0, plain.stderr
    return home


def found(home: Path, *arguments: str) -> list[str]:
    done = pe(*arguments, "--index", "t.lance", "--paths", folder=home)
    assert done.returncode == 0, done.stderr
    return [Path(line).name for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--since", "2020"), {"new.jpg"}),
        (("--until", "2019-08"), {"old.jpg"}),
        (("--near", "48.0,11.5,10km"), {"old.jpg"}),
        (("--camera", "nikon"), {"new.jpg"}),
        (("--camera", "n", "--where", "taken_at < '2022-01-01'"), {"old.jpg"}),
        (("--since", "2030"), set()),
    ],
)
def test_search_and_similar_take_photo_options(
    home: Path, options: tuple[str, ...], expected: set[str]
) -> None:
    assert set(found(home, "search", "a red heart", *options)) == expected
    assert set(found(home, "similar", str(home / "in/plain.png"), *options)) == expected


def test_hits_are_sorted_by_time_and_shown_with_it(home: Path) -> None:
    options = ("search", "a red heart", "--sort", "taken_at")
    assert found(home, *options) == ["new.jpg", "old.jpg", "plain.png"]
    done = pe(*options, "--index", "t.lance", folder=home)
    assert "taken" in done.stdout
    assert "2023-05-04 12:00" in done.stdout
    lines = pe(*options, "--index", "t.lance", "--json", folder=home).stdout.splitlines()
    hit = json.loads(lines[0])
    assert hit["metadata"]["taken_at"] == "2023-05-04T12:00:00"
    assert hit["metadata"]["camera"] == "NIKON Z 6"


def test_other_commands_take_photo_options(home: Path) -> None:
    options = ("--index", "t.lance", "--since", "2020", "--camera", "nikon")
    done = pe("classify", "--labels", "cat,dog", "--paths", *options, folder=home)
    assert [Path(line).name for line in done.stdout.splitlines()] == ["new.jpg"]
    done = pe("cluster", "-k", "1", "--json", *options, folder=home)
    (cluster,) = map(json.loads, done.stdout.splitlines())
    assert [Path(one["uri"]).name for one in cluster["images"]] == ["new.jpg"]
    assert pe("duplicates", *options, folder=home).returncode == 0
    done = pe("indexes", "export", "out.parquet", "--format", "parquet", *options, folder=home)
    assert "1 embeddings" in done.stderr
    refused = pe("classify", "in", "--labels", "cat", "--since", "2020", folder=home)
    assert refused.returncode == 2
    assert "--since" in refused.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--near", "48,11"), "LATITUDE,LONGITUDE,RADIUS"),
        (("--near", "95,11,5km"), "latitude"),
        (("--since", "soon"), "soon"),
        (("--camera", ""), "camera"),
    ],
)
def test_wrong_options_are_explained(home: Path, options: tuple[str, ...], reason: str) -> None:
    done = pe("search", "heart", "--index", "t.lance", *options, folder=home)
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options", [("--since", "2020"), ("--near", "1,2,3km"), ("--sort", "taken_at")]
)
def test_an_index_without_metadata_says_how_to_get_it(home: Path, options: tuple[str, ...]) -> None:
    done = pe("search", "heart", "--index", "none.lance", *options, folder=home)
    assert done.returncode == 1
    assert "pe index --refresh-metadata --index none.lance" in done.stderr


def test_info_says_whether_metadata_is_stored(home: Path) -> None:
    for name, reads in (("t.lance", True), ("none.lance", False)):
        shown = pe("indexes", "info", "--index", name, "--json", folder=home).stdout
        assert json.loads(shown)["reads_metadata"] is reads


def test_refresh_metadata_fills_an_index_and_reports_failures(home: Path) -> None:
    shutil.copytree(home / "none.lance", home / "old.lance")
    moved = (home / "in/new.jpg").rename(home / "new.jpg")
    done = pe("index", "--refresh-metadata", "--index", "old.lance", folder=home)
    assert done.returncode == 1
    assert "in/new.jpg" in done.stderr
    assert "metadata of 1 of 3 images changed, 1 could not be read" in done.stderr
    moved.rename(home / "in/new.jpg")
    done = pe("index", "--refresh-metadata", "--index", "old.lance", folder=home)
    assert done.returncode == 0, done.stderr
    assert "metadata of 1 of 3 images changed;" in done.stderr
    done = pe("search", "heart", "--index", "old.lance", "--since", "2023", "--paths", folder=home)
    assert done.stdout.strip().endswith("new.jpg")
    refused = pe("index", "in", "--refresh-metadata", "--index", "old.lance", folder=home)
    assert refused.returncode == 2


def test_python_takes_the_same_filters(home: Path) -> None:
    index = ImageIndex(home / "t.lance")
    hits = index.search("heart", since="2020", near=(50.0, 11.5, 1000))
    assert [Path(hit.uri).name for hit in hits] == ["new.jpg"]
    assert hits[0].metadata["taken_at"] == datetime.datetime(2023, 5, 4, 12)
    hits = index.search("heart", sort="taken_at", until=datetime.date(2023, 5, 4))
    assert [Path(hit.uri).name for hit in hits] == ["new.jpg", "old.jpg"]
    assert hits.to_arrow()["taken_at"].to_pylist()[1] == datetime.datetime(2019, 8, 1, 12)
    assert len(index.similar(home / "in/old.jpg", camera="nikon")) == 1
    where = index.photo_condition("width > 0", camera="canon")
    assert [Path(row.uri).name for row in index.rows(where=where)] == ["old.jpg"]
    assert index.photo_condition() is None
    with pytest.raises(QueryError, match="refresh-metadata"):
        ImageIndex(home / "none.lance").search("heart", sort="taken_at")


def test_python_stores_metadata_or_not(home: Path, tmp_path: Path) -> None:
    index = ImageIndex(tmp_path / "new.lance", model="pe-nano")
    index.add(home / "in", metadata=False, show_progress=False)
    assert all("taken_at" not in row.metadata for row in index)
    report = index.refresh_metadata(show_progress=False)
    assert (report.num_images, report.num_changed, report.failed) == (3, 2, [])
    assert "2 of 3 changed" in repr(report)
    assert len(index.search("heart", since="2019")) == 2
