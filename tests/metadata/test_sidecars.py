"""Files beside a photo: which belong to it, and what of them counts."""

import json
from collections.abc import Mapping
from datetime import datetime

import pytest
from metadata.photo_files import make_xmp

from perception_encoder.metadata import (
    MAX_SIDECAR_BYTES,
    PhotoMetadata,
    SidecarFinder,
    find_sidecars,
    merge_sidecars,
)

LONG = "a" * 60


@pytest.mark.parametrize(
    ("photo", "sidecar"),
    [
        ("IMG.jpg", "IMG.jpg.json"),
        ("IMG.JPG", "IMG.JPG.json"),
        ("IMG.jpg", "IMG.jpg.supplemental-metadata.json"),
        ("IMG.jpg", "IMG.json"),
        ("IMG.jpg", "IMG.jpg.s.json"),
        ("IMG.jpg", "IMG.jpg..json"),
        ("PXL_20230504_103001.MP.jpg", "PXL_20230504_103001.MP.jpg.supplemental-metada.json"),
        (f"{LONG[:34]}.png", f"{LONG[:34]}.png.supplem.json"),
        # The photo's name is as long as it may be, and that of the JSON file shorter.
        (f"{LONG[:47]}.jpg", f"{LONG[:46]}.json"),
        (f"{LONG[:45]}.jpg", f"{LONG[:45]}..json"),
        (f"{LONG[:44]}.jpg", f"{LONG[:44]}.j.json"),
        # Copies of one name.
        ("IMG(1).jpg", "IMG.jpg(1).json"),
        ("IMG(12).jpg", "IMG.jpg.supplemental-metadata(12).json"),
        ("IMG(1).jpg", "IMG(1).jpg.json"),
        (f"{LONG[:47]}(2).jpg", f"{LONG[:46]}(2).json"),
        # Edited copies have the file of the original.
        ("IMG-edited.jpg", "IMG.jpg.json"),
        ("IMG-edited(1).jpg", "IMG.jpg(1).json"),
        ("IMG-bearbeitet.jpg", "IMG.jpg.supplemental-metadata.json"),
        ("IMG-modifi\u00e9.jpg", "IMG.jpg.json"),
        ("IMG-modifie\u0301.jpg", "IMG.jpg.json"),
        ("IMG-編集済み.jpg", "IMG.jpg.json"),
        (f"{LONG[:44]}-ed.jpg", f"{LONG[:44]}.j.json"),
        ("Mu\u0308nchen.jpg", "M\u00fcnchen.jpg.json"),
        # The video of a Live Photo.
        ("IMG_1.MOV", "IMG_1.HEIC.json"),
        ("IMG.jpg", "IMG.xmp"),
        ("IMG.jpg", "IMG.jpg.xmp"),
        ("IMG.JPG", "IMG.XMP"),
    ],
)  # fmt: skip
def test_sidecars_are_found_by_their_names(photo: str, sidecar: str) -> None:
    others = ["metadata.json", "IMG_2.jpg.json", "IMG_2.xmp", "other.JPG.JSON", photo]
    assert SidecarFinder([*others, sidecar]).find(photo) == [sidecar]


@pytest.mark.parametrize(
    ("photo", "others"),
    [
        ("IMG.jpg", ["IMG(1).jpg.json", "IMG.jpg(1).json", "IMG.png.json", "IMG-edited.jpg.json"]),
        ("IMG(1).jpg", ["IMG.jpg.json", "IMG.jpg(2).json", "IMG(2).jpg.json"]),
        ("IMG-ed.jpg", ["IMG.jpg.json"]),
        ("IMG_1.jpg", ["IMG_1.HEIC.json"]),
        ("a.jpg", ["b.jpg.json", ".json", "json", "metadata.json"]),
        ("(1)", ["(1)(1).json"]),
        ("", [".json", ".xmp", "a.xmp"]),
    ],
)
def test_the_sidecars_of_other_photos_are_not_taken(photo: str, others: list[str]) -> None:
    assert SidecarFinder(others).find(photo) == []


def test_sidecars_in_a_folder_are_found(tmp_path) -> None:
    for name in ("IMG.jpg", "IMG.jpg.json", "IMG.jpg.xmp", "IMG.xmp"):
        (tmp_path / name).touch()
    found = [str(tmp_path / "IMG.jpg.xmp"), str(tmp_path / "IMG.jpg.json")]
    assert find_sidecars(tmp_path / "IMG.jpg") == found
    assert find_sidecars(tmp_path / "no" / "IMG.jpg") == []


TAKEOUT = {
    "title": "IMG.jpg",
    "description": "From Takeout",
    "photoTakenTime": {"timestamp": "1683189001", "formatted": "4 May 2023"},
    "creationTime": {"timestamp": "1700000000"},
    "geoData": {"latitude": 0.0, "longitude": 0.0, "altitude": 0.0},
    "geoDataExif": {"latitude": 48.5, "longitude": -2.5, "altitude": 35.5},
}
READ = {
    "taken_at": datetime(2023, 5, 4, 8, 30, 1), "taken_offset": 0, "latitude": 48.5,
    "longitude": -2.5, "altitude": 35.5, "caption": "From Takeout",
}  # fmt: skip


def merged(*sidecars: tuple[str, bytes], **values: object) -> Mapping[str, object]:
    return merge_sidecars(PhotoMetadata(**values), sidecars).columns()


def test_takeout_is_read() -> None:
    assert merged(("IMG.jpg.json", json.dumps(TAKEOUT).encode())) == READ


def test_an_xmp_sidecar_counts_before_the_photo_and_takeout_after_it() -> None:
    takeout = ("a.json", json.dumps(TAKEOUT).encode())
    edited = 'xmp:Rating="5" xmp:CreateDate="2001-01-01T00:00:00" photoshop:Headline="Corrected"'
    photo = {"taken_at": datetime(1999, 1, 1), "title": "Old", "rating": 1, "iso": 100}
    assert merged(takeout, ("a.xmp", make_xmp(attributes=edited)), **photo) == {
        **{name: value for name, value in READ.items() if not name.startswith("taken")},
        **photo, "title": "Corrected", "rating": 5,
    }  # fmt: skip
    moved = 'exif:GPSLatitude="10,0.0N" exif:GPSLongitude="20,0.0E"'
    place = {"latitude": 48.0, "longitude": 2.0, "altitude": 35.0}
    # The altitude was that of the other place.
    assert merged(("a.xmp", make_xmp(attributes=moved)), **place) == {
        "latitude": 10.0, "longitude": 20.0
    }  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"text"', b"[" * 100_000, b"\xff\xfe", b"{}",
        b'{"description": "of another program"}',
        b'{"photoTakenTime": 5, "geoData": [1]}',
        b'{"photoTakenTime": {"timestamp": "never"}}',
        b'{"photoTakenTime": {"timestamp": "0"}}',
        b'{"photoTakenTime": {"timestamp": 1e400}}',
        b'{"photoTakenTime": {"timestamp": true}}',
        b'{"photoTakenTime": {"timestamp": 99999999999999999999}}',
        b'{"photoTakenTime": {"timestamp": ' + b"9" * 5000 + b"}}",
        b'{"geoData": {"latitude": 91, "longitude": 2}}',
        b'{"geoData": {"latitude": NaN, "longitude": 2}}',
        b'{"geoData": {}, "description": 7}',
        json.dumps({**TAKEOUT, "more": "x" * MAX_SIDECAR_BYTES}).encode(),
    ],
)  # fmt: skip
def test_json_that_is_damaged_lying_or_of_others_has_no_values(content: bytes) -> None:
    assert merged(("a.json", content)) == {}


def test_files_of_other_kinds_have_no_values() -> None:
    assert merged(("a.txt", json.dumps(TAKEOUT).encode()), ("a.xmp", b"broken")) == {}
