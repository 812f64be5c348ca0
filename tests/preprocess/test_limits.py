"""What one image may cost: refused by its headers, or ended while it is decoded."""

import io
import itertools
import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from preprocess.costly_images import (
    calls_of,
    chunk,
    scans,
    segment,
    tiff,
    with_chunks,
    with_segments,
)
from preprocess.preprocess_images import FORMATS, encode, png, scene

from perception_encoder.errors import ImageDecodeError, ImageTooLargeError
from perception_encoder.preprocess import decode_image, metadata
from perception_encoder.preprocess import limits as limits_module
from perception_encoder.preprocess.limits import MAX_SCANS, MAX_SIDE, MAX_STRIPS

ADVICE = "save it again as an ordinary PNG or JPEG"


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data).convert("RGB"))


def refusal(data: bytes) -> str:
    with pytest.raises(ImageTooLargeError) as caught:
        decode_image(data, item="bomb.img")
    assert caught.value.item == "bomb.img"
    assert str(caught.value).startswith("bomb.img: ")
    return str(caught.value)


def test_a_jpeg_of_thousands_of_scans_is_refused_and_one_of_64_is_not():
    message = refusal(scans(3000))
    assert f"3,000 progressive scans, the limit is {MAX_SCANS}" in message
    assert ADVICE in message
    assert decode_image(scans(64)).size == (64, 64)
    refusal(scans(MAX_SCANS + 1))
    decode_image(scans(MAX_SCANS))


def test_scans_are_counted_past_a_comment_that_looks_like_the_end():
    data = scans(3000)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    place = data.rindex(b"\xff\xc4", 0, second)
    refusal(data[:place] + segment(0xFE, b"\xff\xd9") + data[place:])


def test_scans_in_what_follows_the_image_do_not_count():
    motion_photo = scans(10) + scans(3000)
    assert decode_image(motion_photo).size == (64, 64)
    assert decode_image(FORMATS["jpeg"] + b"\xff\xda" * 500).size == (40, 28)


def test_scans_of_a_sequential_jpeg_count_too():
    data = encode(Image.new("YCbCr", (16, 16)), "JPEG", subsampling=0)
    place = data.index(b"\xff\xda")
    first = data[place : place + 14]
    assert first[4] == 3
    one = b"\xff\xda\x00\x08\x01" + first[5:7] + b"\x00\x3f\x00" + data[place + 14 : -2]
    refusal(data[:place] + one * 200 + b"\xff\xd9")


@pytest.mark.parametrize(
    "junk", [b"\xff" * 300_000, b"\xff\0" * 150_000], ids=["fill bytes", "stuffed"]
)
def test_junk_before_a_jpegs_tables_is_not_read_byte_by_byte(junk: bytes):
    data = with_segments(junk)
    assert calls_of(lambda: decode_image(data)) < 5000
    np.testing.assert_array_equal(pixels(data), pixels(FORMATS["jpeg"]))


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive"])
def test_fill_bytes_behind_a_scan_are_not_read_again_and_again(name: str):
    whole = FORMATS[name]
    data = whole[:-2] + b"\xff" * 5_000_000 + whole[-2:]
    assert calls_of(lambda: decode_image(data)) < 1000
    np.testing.assert_array_equal(pixels(data), pixels(whole))


def test_a_jpeg_of_endless_tables_is_refused():
    data = FORMATS["jpeg"]
    start = data.index(b"\xff\xdb")
    table = data[start : data.index(b"\xff", start + 4)]
    assert "100,000 segments" in refusal(with_segments(b"\xff\xdb\0\2" * 100_001))
    assert pixels(with_segments(table * 50)).shape == (28, 40, 3)


def test_a_png_of_endless_chunks_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert metadata._MAX_CHUNKS >= 2**30 // 8192, "a file of libpng's chunks must fit"
    monkeypatch.setattr(metadata, "_MAX_CHUNKS", 1000)
    assert "1,000 chunks" in refusal(with_chunks(chunk(b"IDAT", b"") * 1001))
    assert "1,000 chunks" in refusal(with_chunks(chunk(b"teSt", b"") * 1001, before=b"IEND"))
    assert decode_image(with_chunks(chunk(b"teSt", b"") * 900)).size == (40, 28)


def test_pieces_of_image_data_are_joined():
    data = FORMATS["png"]
    start = data.index(b"IDAT")
    size = int.from_bytes(data[start - 4 : start], "big")
    content = data[start + 4 : start + 4 + size]
    pieces = b"".join(chunk(b"IDAT", content[i : i + 1]) for i in range(size))
    split = data[: start - 4] + pieces + data[start + 8 + size :]
    np.testing.assert_array_equal(pixels(split), pixels(data))


@pytest.mark.parametrize(("width", "height"), [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)])
def test_a_side_beyond_the_limit_is_refused(width: int, height: int):
    rows = [bytes(width)] * height
    message = refusal(png(rows, width=width, bit_depth=8, color_type=0))
    assert f"{width} × {height} pixels, the limit for one side is 1,000,000" in message


def test_a_panorama_is_decoded():
    data = png([bytes(60_000)] * 3, width=60_000, bit_depth=8, color_type=0)
    assert decode_image(data).size == (60_000, 3)


def test_a_tiff_of_millions_of_strips_is_refused_before_they_are_listed():
    count = MAX_STRIPS + 1
    tags = {273: (4, np.full(count, 8)), 279: (4, np.full(count, 1)), 278: (4, [1])}
    data = tiff(tags, b"x", width=1, height=count)
    assert f"{count:,} strips or tiles, the limit is {MAX_STRIPS:,}" in refusal(data)
    assert calls_of(lambda: refusal(data)) < count // 10


def test_a_tiff_of_rows_is_decoded():
    rows = 5000
    tags = {273: (4, np.arange(rows) + 8), 279: (4, np.full(rows, 1)), 278: (4, [1])}
    values = (np.arange(rows) % 256).astype(np.uint8)
    decoded = decode_image(tiff(tags, values.tobytes(), width=1, height=rows))
    np.testing.assert_array_equal(np.asarray(decoded)[:, 0], values)


def test_a_tile_larger_than_its_image_is_refused():
    tags = {322: (4, [65_536]), 323: (4, [65_536]), 324: (4, [8]), 325: (4, [1000])}
    for compression in (1, 8):
        data = tiff({**tags, 259: (3, [compression])}, zlib.compress(bytes(1000)).ljust(1000))
        assert "tiles of 65,536 × 65,536 pixels" in refusal(data)


def test_strips_that_share_their_data_may_not_be_read_again_and_again():
    packed = zlib.compress(bytes(16)) + bytes(200_000)
    count = 500
    tags = {259: (3, [8]), 278: (4, [1]), 273: (4, [8] * count), 279: (4, [len(packed)] * count)}
    assert "strips or tiles have 100," in refusal(tiff(tags, packed, height=count))
    few = {**tags, 273: (4, [8] * 16), 279: (4, [len(packed)] * 16)}
    assert decode_image(tiff(few, packed)).size == (16, 16)


def test_a_jpeg_of_thousands_of_scans_inside_a_tiff_is_refused():
    data = scans(3000)
    for compression in (6, 7):
        tags = {259: (3, [compression])}
        assert "3,000 JPEG scans" in refusal(tiff(tags, data, width=64, height=64))
    assert decode_image(tiff({259: (3, [7])}, scans(64), width=64, height=64)).size == (64, 64)


def test_pages_and_metadata_of_a_tiff_that_are_not_wanted_are_not_read():
    loop = {34_665: (4, [8 + 256]), 34_853: (4, [8]), 40_965: (4, [2**31])}
    data = tiff(loop, bytes(range(256)))
    np.testing.assert_array_equal(np.asarray(decode_image(data)).ravel(), np.arange(256))


def test_a_webp_that_announces_too_much_is_refused_before_it_is_opened(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("PIL._webp.WebPAnimDecoder", None)
    for name in ("webp", "webp-lossless"):
        with pytest.raises(ImageTooLargeError, match="40 × 28"):
            decode_image(FORMATS[name], max_pixels=100)


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "ppm", "jpeg2000", "tiff"])
def test_a_decoder_that_takes_too_long_is_ended_at_its_next_step(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8))
    file_format = {"jpeg2000": "JPEG2000"}.get(name, name.upper())
    data = encode(noise, file_format)
    clock = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: float(next(clock)))
    monkeypatch.setattr(limits_module, "_BASE_SECONDS", 1.5)
    assert "decoding takes more than 2 seconds of processor time" in refusal(data)


def test_the_time_grows_with_the_image(monkeypatch: pytest.MonkeyPatch):
    assert limits_module.max_seconds(0) == 5
    assert 14 < limits_module.max_seconds(64_000_000) < 15
    data = encode(scene(400, 280), "BMP")

    def decode_with_20_seconds_used() -> None:
        used = itertools.chain([0.0], itertools.repeat(20.0))
        monkeypatch.setattr(time, "thread_time", lambda: next(used))
        decode_image(data)

    with pytest.raises(ImageTooLargeError):
        decode_with_20_seconds_used()
    monkeypatch.setattr(limits_module, "_SECONDS_PER_PIXEL", 1.0)
    decode_with_20_seconds_used()


def plain(kind: int, values: np.ndarray, largest: int, separator: bytes) -> bytes:
    height, width = values.shape[:2]
    head = b"P%d %d %d\n" % (kind, width, height) + (b"%d\n" % largest if kind > 1 else b"")
    return head + b"".join(b"%d%s" % (value, separator) for value in values.ravel())


@pytest.mark.parametrize("largest", [1, 3, 255, 256, 1000, 65_535])
@pytest.mark.parametrize("kind", [1, 2, 3, 5, 6])
def test_a_ppm_is_decoded_as_pillow_does_but_not_number_by_number(kind: int, largest: int):
    shape = (9, 13, 3) if kind in {3, 6} else (9, 13)
    top = 1 if kind == 1 else largest
    values = np.random.default_rng(largest).integers(0, top + 1, shape)
    if kind < 4:
        data = plain(kind, values, largest, b"\n")
    else:
        raw = values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
        data = b"P%d 13 9 %d\n" % (kind, largest) + raw
    with Image.open(io.BytesIO(data)) as expected:
        decoded = decode_image(data)
        assert decoded.mode == expected.mode
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(expected))
    if kind < 4:
        commented = plain(kind, values, largest, b" # 7\n#\n\n")
        np.testing.assert_array_equal(np.asarray(decode_image(commented)), np.asarray(decoded))


def test_a_large_ppm_of_another_depth_takes_few_calls():
    values = np.zeros((200, 200, 3), np.uint8)
    data = b"P6 200 200 100\n" + values.tobytes()
    assert calls_of(lambda: decode_image(data)) < 5000
    text = plain(3, values, 255, b"#\n")
    assert calls_of(lambda: decode_image(text)) < 5000


@pytest.mark.parametrize(
    "body", [b"1 2 x 4", b"1 2 -3 4", b"1 2 3 256", b"1 2 3 70000", b"1 2 3 12345678901", b"1 2 3"]
)
def test_a_plain_ppm_of_wrong_numbers_is_damaged(body: bytes):
    with pytest.raises(ImageDecodeError):
        decode_image(b"P2 2 2 255\n" + body)


def test_a_plain_ppm_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch):
    values = np.arange(3 * 4).reshape(3, 4) * 20
    for separator in (b" ", b"\n # long comment without an end in its block\n"):
        data = plain(2, values, 255, separator)
        for size in (1, 7, 64):
            monkeypatch.setattr("perception_encoder.preprocess.pillow_formats._BLOCK", size)
            np.testing.assert_array_equal(np.asarray(decode_image(data)), values)


def jpeg2000(
    width: int, height: int, tile: tuple[int, int], *, precinct: int = 0xFF, body: bytes = b"\0"
) -> bytes:
    """A gray code stream of empty tiles without wavelets; precinct: two powers of two."""
    size = struct.pack(">HIIIIIIIIH3B", 0, width, height, 0, 0, *tile, 0, 0, 1, 7, 1, 1)
    coding = bytes([1, 0, 0, 1, 0, 0, 4, 4, 0, 1, precinct])
    quantization = bytes([0x40, 0x48])
    data = b"\xff\x4f" + segment(0x51, size) + segment(0x52, coding) + segment(0x5C, quantization)
    num_tiles = -(-width // tile[0]) * -(-height // tile[1])
    for number in range(min(num_tiles, 65_535)):
        start = struct.pack(">HIBB", number, 14 + len(body), 0, 1)
        data += segment(0x90, start) + b"\xff\x93" + body
    return data + b"\xff\xd9"


def test_a_jpeg_2000_of_too_many_tiles_is_refused():
    assert "65,025 tiles, the limit is 16,384" in refusal(jpeg2000(4080, 4080, (16, 16)))
    assert decode_image(jpeg2000(640, 640, (16, 16))).size == (640, 640)


def test_a_jpeg_2000_of_too_many_precincts_is_refused():
    data = jpeg2000(8192, 8192, (8192, 8192), precinct=0)
    assert len(data) < 200
    assert "67,108,864 precincts, the limit is 262,144" in refusal(data)
    assert decode_image(jpeg2000(512, 512, (512, 512), precinct=0x55)).size == (512, 512)


def test_a_jpeg_2000_that_says_so_in_a_tile_or_a_file_is_refused_too():
    many = bytes([1, 0, 0, 1, 0, 0, 4, 4, 0, 1, 0])
    plain = jpeg2000(4096, 4096, (4096, 4096))
    place = plain.index(b"\xff\x93")
    part = plain.index(b"\xff\x90")
    inside = bytearray(plain[:place] + segment(0x52, many) + plain[place:])
    inside[part + 6 : part + 10] = struct.pack(">I", 15 + len(many) + 4)
    assert "16,777,216 precincts" in refusal(bytes(inside))
    file = encode(Image.new("L", (8, 8)), "JPEG2000")
    stream = file.index(b"jp2c") - 4
    box = struct.pack(">I4s", len(inside) + 8, b"jp2c") + inside
    assert "16,777,216 precincts" in refusal(file[:stream] + box)
    decoy = struct.pack(">I4s", len(plain) + 8, b"uuid") + plain
    assert "16,777,216 precincts" in refusal(file[:stream] + decoy + box)


@pytest.mark.parametrize("length", [0, 1, 2, 14, 2**32 - 1])
def test_tile_parts_of_odd_lengths_end(length: int):
    data = bytearray(jpeg2000(64, 64, (64, 64)))
    place = data.index(b"\xff\x90") + 6
    data[place : place + 4] = struct.pack(">I", length)
    with suppress(ImageDecodeError):
        decode_image(bytes(data))
