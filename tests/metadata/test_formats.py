"""Every kind of file, every kind of metadata: written by Pillow, and by exiftool."""

import struct
import zlib
from datetime import datetime
from pathlib import Path

import pytest
from metadata.photo_files import (
    FORMATS,
    canon_raw,
    encode,
    fuji_raw,
    jpeg_xl,
    make_exif,
    make_tiff,
    make_xmp,
    text,
)
from PIL.ExifTags import Base

from perception_encoder.metadata import COLUMNS, PhotoMetadata, read_metadata

MEASURED = {
    "taken_at": datetime(2023, 5, 4, 10, 30, 1, 250_000),
    "taken_offset": -210,
    "latitude": 48.8583333,
    "longitude": -2.295,
    "altitude": -35.5,
    "camera": "NIKON D70",
    "lens": "AF 50mm f/1.8",
    "iso": 400,
    "exposure_time": 0.004,
    "f_number": 2.8,
    "focal_length": 50.0,
}
WRITTEN = {
    "rating": 3, "title": "Títle", "caption": "A dog on a beach", "keywords": "beach; dog"
}  # fmt: skip
XMP = make_xmp(
    """<exif:DateTimeOriginal>2023-05-04T10:30:01.25-03:30</exif:DateTimeOriginal>
    <exif:GPSLatitude>48,51.5N</exif:GPSLatitude><exif:GPSLongitude>2,17,42W</exif:GPSLongitude>
    <exif:GPSAltitude>355/10</exif:GPSAltitude><exif:GPSAltitudeRef>1</exif:GPSAltitudeRef>
    <exifEX:LensModel>AF 50mm f/1.8</exifEX:LensModel>
    <exif:ISOSpeedRatings><rdf:Seq><rdf:li>400</rdf:li></rdf:Seq></exif:ISOSpeedRatings>
    <exif:FNumber>28/10</exif:FNumber><exif:FocalLength>50/1</exif:FocalLength>
    <dc:title><rdf:Alt><rdf:li xml:lang="de">Titel</rdf:li>
      <rdf:li xml:lang="x-default">Títle</rdf:li></rdf:Alt></dc:title>
    <dc:description><rdf:Alt><rdf:li xml:lang="x-default">A dog on a beach</rdf:li></rdf:Alt>
    </dc:description>
    <dc:subject><rdf:Bag><rdf:li>beach</rdf:li><rdf:li>dog</rdf:li></rdf:Bag></dc:subject>""",
    'xmp:Rating="3" tiff:Make="NIKON CORPORATION" tiff:Model="NIKON D70" exif:ExposureTime="1/250"',
)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_tag_of_exif_is_read(file_format: str) -> None:
    found = read_metadata(encode(file_format, exif=make_exif())).columns()
    assert found == MEASURED | WRITTEN
    assert found.keys() == COLUMNS.keys()


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_property_of_xmp_is_read(file_format: str) -> None:
    assert read_metadata(encode(file_format, xmp=XMP)).columns() == MEASURED | WRITTEN


@pytest.mark.parametrize("file_format", [*FORMATS, "GIF", "BMP"])
def test_an_image_without_metadata_has_none(file_format: str) -> None:
    assert read_metadata(encode(file_format)) == PhotoMetadata()


@pytest.mark.parametrize("make", [canon_raw, fuji_raw, jpeg_xl])
def test_containers_that_pillow_does_not_write_are_read(make) -> None:
    found = read_metadata(make()).columns()
    rating = {"rating": 4} if make is canon_raw else {}
    assert found == rating | {
        "camera": "A", "taken_at": datetime(2023, 5, 4, 10, 30, 1), "latitude": 48.0,
        "longitude": -2.0,
    }  # fmt: skip


@pytest.mark.parametrize("end", [b"", b"\n", b"\n rest of a buffer \xff"])
def test_blocks_that_imagemagick_writes_as_texts_are_read(end: bytes) -> None:
    exif = b"Exif\0\0" + make_tiff([text(Base.Model, "A")])
    digits = b"\n".join(exif.hex(" ", 1).encode().split(b" "))
    profile = b"\nexif\n%8d\n" % len(exif) + digits + end
    content = b"zTXtRaw profile type exif\0\0" + zlib.compress(profile)
    png = encode("PNG")
    chunk = struct.pack(">I", len(content) - 4) + content + bytes(4)
    assert read_metadata(png[:33] + chunk + png[33:]).camera == "A"


@pytest.mark.parametrize("start", [b"IIRO", b"IIRS", b"IIU\0"])
def test_tiffs_of_olympus_and_panasonic_are_read(start: bytes) -> None:
    data = make_tiff([text(Base.Model, "A")])
    assert read_metadata(start + data[4:]).camera == "A"


def test_columns_are_the_fields_of_the_stated_kinds() -> None:
    kinds = {"datetime": datetime, "int": int, "float": float, "str": str}
    found = read_metadata(encode("JPEG", exif=make_exif())).columns()
    for name, value in found.items():
        assert type(value) is kinds[COLUMNS[name]], name
    assert list(COLUMNS) == list(PhotoMetadata.__dataclass_fields__)


def test_the_page_of_the_documentation_has_every_column() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "metadata.md"
    cells = "".join(line.split("|")[1] for line in page.read_text().splitlines() if "|" in line)
    assert all(f"`{name}`" in cells for name in COLUMNS)


def test_the_camera_counts_for_what_it_measured_and_people_for_what_they_wrote() -> None:
    xmp = make_xmp(
        "<dc:title><rdf:Alt><rdf:li>Better</rdf:li></rdf:Alt></dc:title>",
        'xmp:Rating="5" exif:DateTimeOriginal="2001-01-01T00:00:00" exif:FNumber="9"',
    )
    found = read_metadata(encode("JPEG", exif=make_exif(), xmp=xmp)).columns()
    assert found == MEASURED | WRITTEN | {"title": "Better", "rating": 5}


# By exiftool, each value in one kind of metadata only.
ARGUMENTS = {
    "EXIF": [
        "-EXIF:Make=NIKON CORPORATION", "-EXIF:Model=NIKON D70", "-EXIF:Rating=3",
        "-EXIF:DateTimeOriginal=2023:05:04 10:30:01", "-EXIF:SubSecTimeOriginal=25",
        "-EXIF:OffsetTimeOriginal=-03:30", "-EXIF:GPSLatitude=48.8583333",
        "-EXIF:GPSLatitudeRef=N", "-EXIF:GPSLongitude=2.295", "-EXIF:GPSLongitudeRef=W",
        "-EXIF:GPSAltitude=35.5", "-EXIF:GPSAltitudeRef=below", "-EXIF:ISO=400",
        "-EXIF:ExposureTime=1/250", "-EXIF:FNumber=2.8", "-EXIF:FocalLength=50",
        "-EXIF:LensModel=AF 50mm f/1.8", "-EXIF:XPTitle=Títle",
        "-EXIF:ImageDescription=A dog on a beach", "-EXIF:XPKeywords=beach;dog",
    ],
    "XMP": [
        "-XMP:Make=NIKON CORPORATION", "-XMP:Model=NIKON D70", "-XMP:Rating=3",
        "-XMP-exif:DateTimeOriginal=2023:05:04 10:30:01.25-03:30", "-XMP:GPSLatitude=48.8583333",
        "-XMP:GPSLongitude=-2.295", "-XMP:GPSAltitude=35.5", "-XMP:GPSAltitudeRef#=1",
        "-XMP-exif:ISO=400", "-XMP:ExposureTime=1/250", "-XMP:FNumber=2.8",
        "-XMP:FocalLength=50", "-XMP-exifEX:LensModel=AF 50mm f/1.8", "-XMP:Title=Títle",
        "-XMP:Title-de=Titel", "-XMP:Description=A dog on a beach", "-XMP:Subject=beach",
        "-XMP:Subject=dog",
    ],
    "IPTC": [
        "-IPTC:DateCreated=2023:05:04", "-IPTC:TimeCreated=10:30:01-03:30",
        "-IPTC:ObjectName=Títle", "-IPTC:Caption-Abstract=A dog on a beach",
        "-IPTC:Keywords=beach", "-IPTC:Keywords=dog", "-IPTC:CodedCharacterSet=UTF8",
    ],
}  # fmt: skip
IPTC = {
    "taken_at": datetime(2023, 5, 4, 10, 30, 1), "taken_offset": -210, "title": "Títle",
    "caption": "A dog on a beach", "keywords": "beach; dog",
}  # fmt: skip


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_what_exiftool_writes_is_read(exiftool, tmp_path, kind) -> None:
    formats = ("JPEG", "PNG", "TIFF") if kind == "IPTC" else FORMATS
    paths = [tmp_path / f"a.{file_format.lower()}" for file_format in formats]
    for file_format, path in zip(formats, paths, strict=True):
        path.write_bytes(encode(file_format))
    exiftool("-m", "-q", "-overwrite_original", *ARGUMENTS[kind], *paths)
    for path in paths:
        found = read_metadata(path.read_bytes()).columns()
        expected = IPTC if kind == "IPTC" else MEASURED | WRITTEN
        assert found == expected, path.name


NAMES = {
    "DateTimeOriginal": "taken_at", "GPSLatitude": "latitude", "GPSLongitude": "longitude",
    "GPSAltitude": "altitude", "LensModel": "lens", "ISO": "iso", "FNumber": "f_number",
    "ExposureTime": "exposure_time", "FocalLength": "focal_length", "Rating": "rating",
}  # fmt: skip


def test_exiftool_reads_the_same(exiftool, tmp_path, photos) -> None:
    """Real photos, and files that Pillow wrote."""
    written = [tmp_path / f"a.{file_format.lower()}" for file_format in FORMATS]
    for file_format, path in zip(FORMATS, written, strict=True):
        path.write_bytes(encode(file_format, exif=make_exif()))
    paths = [*photos, *written]
    options = ["-q", "-json", "-n"]
    read = exiftool(*options, *(f"-{name}" for name in NAMES), *paths, as_json=True)
    assert len(read) == len(paths)
    for path, theirs in zip(paths, read, strict=True):
        ours = read_metadata(path.read_bytes()).columns()
        if "taken_at" in ours:
            ours["taken_at"] = f"{ours['taken_at']:%Y:%m:%d %H:%M:%S}"
        for name, column in NAMES.items():
            expected = theirs.get(name)
            if isinstance(expected, float):
                expected = pytest.approx(expected)
            assert ours.get(column) == expected, (path.name, name)
