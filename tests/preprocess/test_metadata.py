"""What does not decide pixels does not decide whether an image can be used."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from preprocess.costly_images import chunk, segment, tiff, with_chunks, with_segments
from preprocess.preprocess_images import FORMATS, encode, scene

from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess.transforms import to_rgb, turn_upright

BOMB = zlib.compress(bytes(5_000_000))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
TURN_RIGHT = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 3, 1, 6) + bytes(4)


def shown(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of malformed tags
        return np.asarray(to_rgb(turn_upright(decode_image(data)), item="x"))


PNG_CHUNKS = {
    "long text": chunk(b"tEXt", b"a\0" + b"x" * 70_000_000),
    "2 MB of compressed text": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2_000_000)),
    "2 MB of XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b" " * 2_000_000),
    "compressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "bomb as EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "text of a wrong method": chunk(b"zTXt", b"a\0\7" + BOMB),
    "profile bomb": chunk(b"iCCP", b"a\0\0" + BOMB),
    "profile without data": chunk(b"iCCP", b"a"),
    "profile of a wrong method": chunk(b"iCCP", b"a\0\7abc"),
    "wrong checksum": chunk(b"tEXt", b"a\0b", checksum=1),
    "wrong checksum of EXIF": chunk(b"eXIf", TURN_RIGHT, checksum=1),
    "EXIF that is none": chunk(b"eXIf", b"garbage"),
    "short gamma": chunk(b"gAMA", b""),
    "short resolution": chunk(b"pHYs", b"1"),
    "short primaries": chunk(b"cHRM", b"1"),
    "short intent": chunk(b"sRGB", b""),
    "animation of no frames": chunk(b"acTL", bytes(8)),
    "short animation": chunk(b"acTL", b"") + chunk(b"fcTL", b""),
    "frame out of order": chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 9, 4000, 4000, 0, 0, 1, 1, 0, 0)),
    "unknown": chunk(b"zzZz", b"123") + chunk(b"ZZZz", b"123"),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_chunks_beside_a_pngs_pixels_change_nothing(name: str, before: bytes):
    data = with_chunks(PNG_CHUNKS[name], before=before)
    np.testing.assert_array_equal(shown(data), shown(FORMATS["png"]))


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"eXIf", TURN_RIGHT),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        chunk(b"zTXt", b"a\0\0" + BOMB) + chunk(b"eXIf", TURN_RIGHT) + chunk(b"iCCP", b"a"),
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n 26\n" + (b"Exif\0\0" + TURN_RIGHT).hex().encode()),
        ),
    ],
    ids=["eXIf", "XMP", "packed XMP", "among others", "raw profile"],
)
def test_a_pngs_orientation_is_honored(metadata: bytes, before: bytes):
    turned = shown(with_chunks(metadata, before=before))
    np.testing.assert_array_equal(turned, np.rot90(shown(FORMATS["png"]), -1))


def test_animation_chunks_after_the_image_are_no_pixels():
    data = with_chunks(chunk(b"fdAT", bytes(4) + BOMB) * 3, before=b"IEND")
    np.testing.assert_array_equal(shown(data), shown(FORMATS["png"]))


def test_a_pngs_pixels_still_need_their_header_and_palette():
    data = bytearray(FORMATS["png-palette"])
    data[data.index(b"PLTE") + 10] ^= 1  # its checksum is wrong now
    with pytest.raises(Exception, match="bad header checksum in b'PLTE'"):
        decode_image(bytes(data))


JPEG_SEGMENTS = {
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "short Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
    "short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "profile without parts": segment(0xE2, b"ICC_PROFILE\0\7\7abc") * 3,
    "short multi-image index": segment(0xE2, b"MPF\0"),
    "empty comment": segment(0xFE, b""),
    "3 MB of comments": segment(0xFE, b"x" * 65_000) * 46,
    "EXIF that is none": segment(0xE1, b"Exif\0\0garbage"),
    "EXIF loop": segment(
        0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", 0x8769, 4, 1, 8, 8)
    ),
    "endless EXIF": segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 45,
    "XMP that is none": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe"),
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_segments_beside_a_jpegs_pixels_change_nothing(name: str):
    for kind in ("jpeg", "jpeg-gray", "jpeg-cmyk", "jpeg-progressive"):
        data = with_segments(JPEG_SEGMENTS[name], name=kind)
        np.testing.assert_array_equal(shown(data), shown(FORMATS[kind]))


def test_a_jpegs_orientation_is_honored_among_malformed_segments():
    exif = segment(0xE1, b"Exif\0\0" + TURN_RIGHT)
    junk = JPEG_SEGMENTS["short profile"] + JPEG_SEGMENTS["short Photoshop"]
    expected = np.rot90(shown(FORMATS["jpeg"]), -1)
    for segments in (exif, junk + exif + junk):
        np.testing.assert_array_equal(shown(with_segments(segments)), expected)
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    np.testing.assert_array_equal(shown(with_segments(xmp)), expected)


def webp_with(kind: bytes, content: bytes, flag: int) -> bytes:
    size = struct.pack("<I", len(content))
    body = FORMATS["webp"][12:] + kind + size + content + b"\0" * (len(content) % 2)
    head = bytes([flag, 0, 0, 0]) + (39).to_bytes(3, "little") + (27).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + head + body
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("content", [b"", b"garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", bytes(99)])
@pytest.mark.parametrize(
    ("kind", "flag"), [(b"EXIF", 8), (b"ICCP", 32), (b"XMP ", 4), (b"abcd", 0)]
)
def test_chunks_beside_a_webps_pixels_change_nothing(kind: bytes, flag: int, content: bytes):
    data = webp_with(kind, content, flag)
    np.testing.assert_array_equal(shown(data), shown(FORMATS["webp"]))
    turned = webp_with(b"EXIF", TURN_RIGHT, 8)
    np.testing.assert_array_equal(shown(turned), np.rot90(shown(FORMATS["webp"]), -1))


TIFF_TAGS = (254, 269, 270, 280, 281, 282, 296, 700, 33_723, 34_377, 34_665, 34_675, 65_000)


@pytest.mark.parametrize("tag", TIFF_TAGS)
@pytest.mark.parametrize("compression", [1, 8])
def test_malformed_tags_of_a_tiff_change_nothing(tag: int, compression: int):
    values = np.arange(256, dtype=np.uint8)
    content = values.tobytes() if compression == 1 else zlib.compress(values.tobytes())
    data = tiff({259: (3, [compression]), tag: (3, [7])}, content)
    place = data.index(struct.pack("<HH", tag, 3))
    for kind in (0, 1, 2, 3, 5, 7, 12, 13, 99):
        for count in (0, 1, 100, 2**32 - 1):
            for value in (0, 8, 2**32 - 1):
                entry = struct.pack("<HHII", tag, kind, count, value)
                broken = data[:place] + entry + data[place + 12 :]
                np.testing.assert_array_equal(shown(broken)[..., 0].ravel(), values)


def test_comments_of_a_gif_change_nothing():
    data = FORMATS["gif"]
    place = 13 + (6 << (data[10] & 7))  # behind the palette
    for comment in (b"!\xfe" + (b"\xff" + b"x" * 255) * 8000 + b"\0", b"!\xff\0", b"!\x01\1x\0"):
        np.testing.assert_array_equal(shown(data[:place] + comment + data[place:]), shown(data))


@pytest.mark.parametrize("file_format", ["AVIF", "HEIC"])
def test_broken_exif_of_avif_and_heic_changes_nothing(file_format: str):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = encode(scene(), file_format, exif=exif.tobytes())
    start = data.index(b"a description") - 26
    order = data[start : start + 2]
    assert order in (b"II", b"MM")
    for garbage in (b"garbage!", order + b"\0*\xff\xff\xff\x7f", bytes(8)):
        broken = data[:start] + garbage + data[start + 8 :]
        np.testing.assert_array_equal(shown(broken), shown(data))
