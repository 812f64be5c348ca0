"""Whatever a file holds, its metadata is read, and no value is outside its range."""

import json
import math
import struct
import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata.photo_files import (
    FORMATS,
    canon_raw,
    encode,
    fuji_raw,
    jpeg_of,
    jpeg_xl,
    make_exif,
    make_tiff,
    make_xmp,
)

from perception_encoder.metadata import (
    COLUMNS,
    PhotoMetadata,
    SidecarFinder,
    merge_sidecars,
    read_metadata,
)
from perception_encoder.metadata.exif import read_exif
from perception_encoder.metadata.iptc import find_iptc, read_iptc
from perception_encoder.metadata.xmp import read_xmp

RANGES = {
    "taken_offset": (-840, 840), "latitude": (-90, 90), "longitude": (-180, 180),
    "altitude": (-11_000, 100_000), "iso": (1, 10_000_000), "exposure_time": (5e-324, 1e6),
    "f_number": (5e-324, 1e3), "focal_length": (5e-324, 1e5), "rating": (-1, 5),
}  # fmt: skip
TYPES = {"datetime": datetime, "int": int, "float": float, "str": str}
XMP = make_xmp(
    """<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Title</rdf:li></rdf:Alt></dc:title>
    <dc:subject><rdf:Bag><rdf:li>beach</rdf:li><rdf:li>dog</rdf:li></rdf:Bag></dc:subject>""",
    'xmp:Rating="3" exif:GPSLatitude="48,51.5N" exif:GPSLongitude="2,17.7W" '
    'exif:DateTimeOriginal="2023-05-04T10:30:01+02:00" exif:FNumber="28/10"',
)
IPTC = b"".join(
    struct.pack(">BBBH", 0x1C, 2, number, len(value)) + value
    for number, value in [(5, b"Title"), (25, b"dog"), (55, b"20230504"), (60, b"103000+0200")]
)
PHOTOSHOP = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
TAKEOUT = {
    "description": "a", "photoTakenTime": {"timestamp": "1683189001"},
    "geoData": {"latitude": 48.5, "longitude": -2.5, "altitude": 35.5},
}  # fmt: skip
FILES = {
    **{kind: encode(kind, exif=make_exif(), xmp=XMP) for kind in FORMATS},
    "CR3": canon_raw(),
    "RAF": fuji_raw(),
    "JPEG XL": jpeg_xl(),
    "JPEG with IPTC": jpeg_of(b"", segments=[(0xED, b"Photoshop 3.0\0" + PHOTOSHOP)]),
}


def check(metadata: PhotoMetadata) -> None:
    for name, value in metadata.columns().items():
        assert type(value) is TYPES[COLUMNS[name]], name
        if isinstance(value, datetime):
            assert 1826 <= value.year <= 2100
            assert value.tzinfo is None
            assert value.microsecond % 1000 == 0
        elif isinstance(value, str):
            assert 0 < len(value) <= (2000 if name in ("caption", "keywords") else 300)
            assert value == value.strip()
            assert not any(ord(character) < 32 or ord(character) == 127 for character in value)
            value.encode()
        else:
            low, high = RANGES[name]
            assert math.isfinite(value)
            assert low <= value <= high
    assert (metadata.latitude is None) == (metadata.longitude is None)
    assert metadata.taken_at is not None or metadata.taken_offset is None


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Change some bytes, numbers and ranges, and perhaps the end."""
    content = bytearray(data)
    places = st.integers(0, len(data) - 1)
    for _ in range(draw(st.integers(1, 8))):
        place = draw(places)
        change = draw(st.sampled_from(["byte", "number", "copy", "insert", "remove"]))
        if change == "byte":
            content[place % len(content)] = draw(st.integers(0, 255))
        elif change == "number":
            number = draw(st.sampled_from([0, 1, 0x7F, 0xFF, 0xFFFF, 2**31, 2**32 - 1]))
            content[place : place + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", number)
        elif change == "copy":
            start = draw(places)
            length = draw(st.integers(1, 64))
            content[place : place + length] = content[start : start + length]
        elif change == "insert":
            content[place:place] = draw(st.binary(max_size=16))
        else:
            del content[place : place + draw(st.integers(1, 16))]
        if not content:
            return b""
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_any_damage_of_a_file_leaves_values_within_their_ranges(
    kind: str, data: st.DataObject
) -> None:
    content = data.draw(mutated(FILES[kind]))
    started = time.process_time()
    check(read_metadata(content))
    assert time.process_time() - started < 1


@given(mutated(make_exif().tobytes()[6:]) | st.binary(max_size=200))
def test_any_exif_is_read(content: bytes) -> None:
    check(read_exif(content).metadata)


TAGS = st.sampled_from([
    *(0x10E, 0x10F, 0x110, 0x4746, 0x4749, 0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F, 0x9003, 0x9291, 0x9011),
    *(0x9010, 0x8827, 0x8832, 0x8833, 0x829A, 0x829D, 0x920A, 0xA434, 0x9286, *range(7)),
])  # fmt: skip
ENTRIES = st.lists(
    st.tuples(
        TAGS,
        st.integers(0, 20) | st.just(129),
        st.integers(0, 8) | st.sampled_from([100, 2**16, 2**32 - 1]),
        st.binary(max_size=24) | st.text("0123456789:.+- aé", max_size=24).map(str.encode),
    ),
    max_size=8,
)  # fmt: skip


@given(ENTRIES, ENTRIES, ENTRIES, st.sampled_from("<>"))
def test_tags_of_any_type_and_content_are_read(main, exif, gps, order: str) -> None:
    check(read_exif(make_tiff(main, exif, gps, order)).metadata)


@given(mutated(XMP) | st.binary(max_size=200))
def test_any_xmp_is_read(content: bytes) -> None:
    check(read_xmp(content).metadata)
    check(merge_sidecars(PhotoMetadata(), [("a.xmp", content)]))


ATTRIBUTES = st.sampled_from(
    [
        "xmp:Rating", "exif:DateTimeOriginal", "photoshop:DateCreated", "exif:GPSLatitude",
        "exif:GPSLongitude", "exif:GPSAltitude", "exif:FNumber", "exif:ExposureTime",
        "exif:ISOSpeedRatings", "exif:FocalLength", "dc:title", "dc:subject", "aux:Lens",
    ]
)  # fmt: skip
VALUES = st.text("0123456789-+:/.,eENSWTZnaif ", max_size=24) | st.text(max_size=12)


@given(st.dictionaries(ATTRIBUTES, VALUES))
def test_any_values_of_xmp_are_read(values: dict[str, str]) -> None:
    from xml.sax.saxutils import quoteattr

    pairs = " ".join(f"{name}={quoteattr(value)}" for name, value in values.items())
    check(read_xmp(make_xmp(attributes=pairs.encode("utf-8", "ignore").decode())).metadata)


@given(mutated(PHOTOSHOP) | st.binary(max_size=200))
def test_any_iptc_is_read(content: bytes) -> None:
    check(read_iptc(find_iptc(content)))
    check(read_iptc(content))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
TAKEOUTS = st.fixed_dictionaries(
    {},
    optional={
        "photoTakenTime": SCALARS | st.fixed_dictionaries({"timestamp": SCALARS}),
        "description": SCALARS,
        "geoData": SCALARS
        | st.fixed_dictionaries({"latitude": SCALARS, "longitude": SCALARS, "altitude": SCALARS}),
    },
)


@given(TAKEOUTS.map(lambda one: json.dumps(one).encode()) | mutated(json.dumps(TAKEOUT).encode()))
def test_any_takeout_is_read(content: bytes) -> None:
    check(merge_sidecars(PhotoMetadata(), [("a.json", content)]))


PARTS = st.sampled_from(
    ["IMG", "(1)", ".jpg", ".json", ".xmp", "-edited", ".supplemental-metadata", ".s", ".", "é", ""]
)
NAMES = st.lists(PARTS, max_size=6).map("".join) | st.text(max_size=60)


@given(st.lists(NAMES, max_size=8), NAMES)
def test_sidecars_of_any_name_are_files_of_the_folder(names: list[str], photo: str) -> None:
    found = SidecarFinder(names).find(photo)
    assert set(found) <= set(names)
    assert len(found) <= 2
