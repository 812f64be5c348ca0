"""A tag that is damaged or cannot be right costs its value, and nothing else."""

import struct
import time
import zlib
from datetime import datetime

import pytest
from metadata.photo_files import (
    encode,
    jpeg_of,
    make_exif,
    make_tiff,
    make_xmp,
    rationals,
    short,
    text,
)
from PIL.ExifTags import GPS, IFD, Base

from perception_encoder.metadata import PhotoMetadata, read_metadata
from perception_encoder.metadata.exif import read_exif
from perception_encoder.metadata.iptc import read_iptc
from perception_encoder.metadata.xmp import read_xmp

NORTH, EAST = text(GPS.GPSLatitudeRef, "N\0"), text(GPS.GPSLongitudeRef, "E\0")
LATITUDE = rationals(GPS.GPSLatitude, (48, 1), (51, 1), (30, 1))
LONGITUDE = rationals(GPS.GPSLongitude, (2, 1), (17, 1), (42, 1))


@pytest.mark.parametrize(
    "written",
    [
        "0000:00:00 00:00:00", "    :  :     :  :  ", "9999:12:31 23:59:59", "1970:01:01 00:00:00",
        "2023:02:30 10:00:00", "2023:13:01 10:00:00", "2023:05:04 25:00:00", "2023:05:04 10:61:00",
        "1700:01:01 00:00:00", "2101:01:01 00:00:00", "2023", "2023:05", "yesterday", "",
        "\0\0\0\0", "-001:01:01 00:00:00", "２０２３:05:04 10:30:00",
    ],
)  # fmt: skip
def test_a_time_that_never_was_is_none(written: str) -> None:
    exif = [text(Base.DateTimeOriginal, written), text(Base.LensModel, "A lens")]
    assert read_exif(make_tiff(exif=exif)).metadata == PhotoMetadata(lens="A lens")


@pytest.mark.parametrize("offset", ["+15:00", "+02:75", "local", "", "\0", "+2"])
def test_a_time_without_a_usable_offset_is_local(offset: str) -> None:
    exif = [
        text(Base.DateTimeOriginal, "2023:05:04 10:30:00\0"),
        text(Base.SubsecTimeOriginal, "  \0"),
        text(Base.OffsetTimeOriginal, offset),
    ]
    found = read_exif(make_tiff(exif=exif)).metadata
    assert found == PhotoMetadata(taken_at=datetime(2023, 5, 4, 10, 30))


def test_the_time_of_the_last_change_is_no_time_of_taking() -> None:
    main = [text(Base.DateTime, "2023:05:04 10:30:00\0")]
    assert read_metadata(jpeg_of(make_tiff(main))) == PhotoMetadata()


def test_the_time_of_digitizing_counts_where_there_is_no_other() -> None:
    digitized = text(Base.DateTimeDigitized, "2023:05:04 10:30:00\0")
    scan = jpeg_of(make_tiff(exif=[digitized]))
    assert read_metadata(scan).taken_at == datetime(2023, 5, 4, 10, 30)
    xmp = make_xmp(attributes='photoshop:DateCreated="1951-06-01"')
    segment = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    dated = jpeg_of(make_tiff(exif=[digitized]), segments=[segment])
    assert read_metadata(dated).taken_at == datetime(1951, 6, 1)


@pytest.mark.parametrize(
    "entries",
    [
        [rationals(Base.ExposureTime, (1, 0))],
        [rationals(Base.ExposureTime, (0, 0))],
        [rationals(Base.ExposureTime, (0, 5))],
        [rationals(Base.FNumber, (2**32 - 1, 1))],
        [rationals(Base.FocalLength, (0, 1))],
        [(Base.ExposureTime, 12, 1, struct.pack("<d", float("nan")))],
        [(Base.ExposureTime, 12, 1, struct.pack("<d", float("inf")))],
        [(Base.FNumber, 11, 1, struct.pack("<f", -1.0))],
        [short(Base.ISOSpeedRatings, 0)],
        [short(Base.ISOSpeedRatings, 65_535)],
        [(Base.ISOSpeedRatings, 2, 4, b"400\0")],
        [text(Base.ExposureTime, "1/250\0")],
        [text(Base.LensModel, "----\0")],
        [text(Base.LensModel, b"\xff\xfe\x81\x8d")],
        [text(Base.LensModel, b"\x01\x02\x1b")],
        [(Base.UserComment, 7, 20, b"UNICODE\0" + b"\xd8" * 12)],
        [(Base.UserComment, 7, 12, b"JIS\0\0\0\0\0\xff\xff\xff\xff")],
    ],
)
def test_a_value_out_of_range_is_none(entries) -> None:
    assert read_exif(make_tiff(exif=entries)).metadata == PhotoMetadata()


def test_a_sensitivity_beyond_16_bits_is_in_another_tag() -> None:
    large = (Base.RecommendedExposureIndex, 4, 1, struct.pack("<I", 102_400))
    exif = [short(Base.ISOSpeedRatings, 65_535), large]
    assert read_exif(make_tiff(exif=exif)).metadata.iso == 102_400


@pytest.mark.parametrize(
    "gps",
    [
        [NORTH, rationals(GPS.GPSLatitude, (91, 1), (0, 1), (0, 1)), EAST, LONGITUDE],
        [NORTH, LATITUDE, EAST, rationals(GPS.GPSLongitude, (181, 1), (0, 1), (0, 1))],
        [NORTH, rationals(GPS.GPSLatitude, (0, 0), (0, 0), (0, 0)), EAST, LONGITUDE],
        [NORTH, rationals(GPS.GPSLatitude, (48, 1), (99, 1), (0, 1)), EAST, LONGITUDE],
        [NORTH, LATITUDE, LONGITUDE],
        [LATITUDE, EAST, LONGITUDE],
        [NORTH, LATITUDE, EAST],
        [text(GPS.GPSLatitudeRef, "X\0"), LATITUDE, EAST, LONGITUDE],
        [NORTH, rationals(GPS.GPSLatitude, (0, 1)), EAST, rationals(GPS.GPSLongitude, (0, 1))],
    ],
)
def test_a_place_that_does_not_exist_is_none(gps) -> None:
    assert read_exif(make_tiff(gps=gps)).metadata == PhotoMetadata()


def test_minutes_may_be_missing_and_hemispheres_have_signs() -> None:
    gps = [
        text(GPS.GPSLatitudeRef, "S\0"),
        rationals(GPS.GPSLatitude, (4_850_000, 100_000), (0, 0), (0, 0)),
        text(GPS.GPSLongitudeRef, "w\0"),
        rationals(GPS.GPSLongitude, (2, 1), (30, 1)),
        rationals(GPS.GPSAltitude, (1, 0)),
    ]
    found = read_exif(make_tiff(gps=gps)).metadata
    assert found == PhotoMetadata(latitude=-48.5, longitude=-2.5)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("OLYMPUS IMAGING CORP.  ", "E-M1", "OLYMPUS E-M1"),
        ("OLYMPUS OPTICAL CO.,LTD", "C2040Z", "OLYMPUS C2040Z"),
        ("EASTMAN KODAK COMPANY", "KODAK DC290 ZOOM", "KODAK DC290 ZOOM"),
        ("RICOH IMAGING COMPANY, LTD.", "PENTAX K-1", "RICOH PENTAX K-1"),
        ("LEICA CAMERA AG", "LEICA Q2", "LEICA Q2"),
        ("SONY", "ILCE-7M3", "SONY ILCE-7M3"),
        ("Apple", "", "Apple"),
        ("", "Pixel 7", "Pixel 7"),
        ("Company", "X", "Company X"),
    ],
)
def test_the_maker_is_named_once(make: str, model: str, camera: str) -> None:
    main = [text(Base.Make, f"{make}\0"), text(Base.Model, f"{model}\0")]
    assert read_exif(make_tiff(main)).metadata.camera == camera


@pytest.mark.parametrize(
    "caption",
    ["OLYMPUS DIGITAL CAMERA         ", "SONY DSC", "{\"mode\": 1}", "DCIM\\100MEDIA\\DJI_1.JPG"],
)  # fmt: skip
def test_what_the_camera_writes_on_every_photo_is_no_caption(caption: str) -> None:
    main = [text(Base.ImageDescription, caption)]
    exif = [(Base.UserComment, 7, 18, b"ASCII\0\0\0By a human")]
    assert read_exif(make_tiff(main)).metadata.caption is None
    assert read_exif(make_tiff(main, exif)).metadata.caption == "By a human"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_texts_are_decoded_and_cleaned(encoding: str) -> None:
    written = "  Grüße\taus\x07\r\n  Köln\u00a0 ".encode(encoding)
    assert read_exif(make_tiff([text(Base.ImageDescription, written)])).metadata.caption == (
        "Grüße aus Köln"
    )


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_comments_in_either_byte_order_are_read(encoding: str) -> None:
    value = b"UNICODE\0" + "Grüße".encode(encoding)
    found = read_exif(make_tiff(exif=[(Base.UserComment, 7, len(value), value)])).metadata
    assert found.caption == "Grüße"


def test_long_texts_and_lists_are_cut() -> None:
    main = [text(Base.ImageDescription, "x" * 60_000), text(Base.Model, "y" * 60_000)]
    found = read_exif(make_tiff(main)).metadata
    assert found == PhotoMetadata(caption="x" * 2000, camera="y" * 300)
    many = "".join(f"<rdf:li>keyword{number}</rdf:li>" for number in range(20_000))
    xmp = make_xmp(f"<dc:subject><rdf:Bag>{many}</rdf:Bag></dc:subject>", 'xmp:Rating="2"')
    keywords = read_xmp(xmp).metadata.keywords
    assert keywords is not None
    assert 1980 < len(keywords) <= 2000
    assert keywords.startswith("keyword0; keyword1; ")
    assert keywords.split("; ")[-1] == f"keyword{keywords.count(';')}"
    fields = b"".join(b"\x1c\x02\x19\0\x05" + b"%05d" % number for number in range(100_000))
    assert len(read_iptc(fields).keywords or "") <= 2000


def test_directories_that_point_at_each_other_end() -> None:
    data = bytearray(make_tiff([text(Base.Model, "A")]))
    for link in (IFD.Exif, IFD.GPSInfo):
        place = data.index(struct.pack("<HHI", link, 4, 1)) + 8
        data[place : place + 4] = struct.pack("<I", 8)
    assert read_exif(bytes(data)).metadata == PhotoMetadata(camera="A")


@pytest.mark.parametrize("length", [*range(0, 120, 3), 300, 500])
def test_a_file_that_ends_early_has_what_is_left(length: int) -> None:
    exif = make_exif().tobytes()[6:]
    assert isinstance(read_metadata(jpeg_of(exif[:length])), PhotoMetadata)
    assert isinstance(read_metadata(encode("PNG", exif=make_exif())[:length]), PhotoMetadata)


BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">
<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&c;&e;</x>"""


@pytest.mark.parametrize(
    "xmp",
    [
        BOMB.encode(),
        b"",
        b"\0" * 100,
        b"<",
        b"not XML",
        b"\xff\xfe<\0",
        b"<a>" * 100_000,
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + b"<a/>" * 200_000,
        make_xmp(attributes='xmp:Rating="4"') + b" " * 2**20,
    ],
)
def test_xmp_that_is_hostile_or_too_long_is_nothing(xmp: bytes) -> None:
    assert read_xmp(xmp).metadata == PhotoMetadata()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("xmp:Rating", "6"), ("xmp:Rating", "2.5"), ("xmp:Rating", "nan"), ("xmp:Rating", "1e1"),
        ("exif:FNumber", "1/0"), ("exif:FNumber", "9" * 400), ("exif:FNumber", "inf"),
        ("exif:DateTimeOriginal", "2023"), ("exif:DateTimeOriginal", "0000-00-00T00:00:00"),
        ("photoshop:Headline", "\ufffd broken"), ("exif:ISOSpeedRatings", "-5"),
    ],
)  # fmt: skip
def test_a_property_out_of_range_is_none(attribute: str, value: str) -> None:
    xmp = make_xmp(attributes=f'{attribute}="{value}" aux:Lens="A lens"')
    assert read_xmp(xmp).metadata == PhotoMetadata(lens="A lens")


@pytest.mark.parametrize(
    ("latitude", "longitude", "place"),
    [
        ("48,51,30N", "2,17.7W", (48.8583333, -2.295)),
        ("48.5", "-2.5", (48.5, -2.5)),
        ("48.5S", "2.5 W", (-48.5, -2.5)),
        ("91,0.0N", "2,0.0E", (None, None)),
        ("48,61.0N", "2,0.0E", (None, None)),
        ("48,0.0E", "2,0.0E", (None, None)),
        ("0,0.0N", "0,0.0E", (None, None)),
        ("48", "", (None, None)),
    ],
)
def test_coordinates_of_xmp(latitude, longitude, place) -> None:
    xmp = make_xmp(attributes=f'exif:GPSLatitude="{latitude}" exif:GPSLongitude="{longitude}"')
    found = read_xmp(xmp).metadata
    assert (found.latitude, found.longitude) == place


def test_what_comes_before_an_error_of_the_xml_is_kept() -> None:
    xmp = make_xmp(attributes='xmp:Rating="4"')
    assert read_xmp(xmp[:-60]).metadata.rating == 4
    assert read_xmp(b"\0\0" + xmp + b"\0\0\0").metadata.rating == 4


def test_a_wrong_encoding_costs_its_text_only() -> None:
    xmp = make_xmp(attributes='photoshop:Headline="Gr\u00fc\u00dfe" xmp:Rating="4"')
    wrong = xmp.replace("ü".encode(), b"\xfc")
    assert read_xmp(wrong).metadata == PhotoMetadata(rating=4)
    assert read_xmp(xmp.decode().encode("utf-16")).metadata.title == "Grüße"


def test_properties_of_other_images_are_not_those_of_this_one() -> None:
    history = """<xmpMM:DerivedFrom xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
        rdf:parseType="Resource"><xmp:Rating>5</xmp:Rating><dc:title>Other</dc:title>
        </xmpMM:DerivedFrom>"""
    assert read_xmp(make_xmp(history)).metadata == PhotoMetadata()


def test_iptc_in_another_encoding_is_read() -> None:
    def field(number: int, value: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, 2, number, len(value)) + value

    western = field(5, "Köln".encode("cp1252")) + field(55, b"20230504")
    assert read_iptc(western) == PhotoMetadata(title="Köln", taken_at=datetime(2023, 5, 4))
    assert read_iptc(b"\x1c\x01\x5a\0\x03\x1b%G" + western).title is None
    assert read_iptc(field(55, b"20230500") + field(60, b"103000")) == PhotoMetadata()


def test_hostile_files_take_a_bounded_time() -> None:
    """Each tag names the same megabyte, each chunk is empty, each of 5,000 texts is a bomb."""
    entry = struct.pack("<HHII", Base.ImageDescription, 2, 2**20, 8)
    tags = b"II*\0\x08\0\0\0\xff\xff" + entry * 65_535 + b"x" * 2**20
    bomb = zlib.compress(bytes(2_000_000))
    text_chunk = b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + bomb
    png = (
        encode("PNG")[:33] + (struct.pack(">I", len(text_chunk) - 4) + text_chunk + bytes(4)) * 5000
    )
    webp = b"RIFF\xff\xff\xff\xffWEBP" + b"VP8 \0\0\0\0" * 500_000
    many_chunks = png[:33] + b"\0\0\0\0abcd\0\0\0\0" * 1_000_000
    segments = b"\xff\xd8" + b"\xff\xe1\0\x02" * 1_000_000
    fill = b"\xff\xd8" + b"\xff" * 50_000_000
    started = time.process_time()
    for data in (tags, png, webp, many_chunks, segments, fill):
        read_metadata(data)
    assert time.process_time() - started < 5
