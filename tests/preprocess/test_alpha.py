"""Alpha that is none: an opaque image does not turn white or black. Expectations were compared with
what Chromium shows, where it shows the format."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from preprocess.costly_images import chunk, tiff
from preprocess.preprocess_images import encode, png, scene

from perception_encoder.preprocess import ImageProcessor, decode_image
from perception_encoder.preprocess.transforms import to_rgb, turn_upright
from perception_encoder.registry import ImageConfig

WHITE = (255, 255, 255)
COLORS = np.asarray(scene(8, 6))


def shown(data: bytes) -> np.ndarray:
    return np.asarray(to_rgb(turn_upright(decode_image(data)), item="x"))


def with_alpha(alpha: int | np.ndarray) -> np.ndarray:
    channel = np.full((*COLORS.shape[:2], 1), 0, np.uint8) + np.asarray(alpha, np.uint8)
    return np.concatenate([COLORS, channel], axis=-1)


def over_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(float) / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


def bmp(pixels: np.ndarray, *, header: int, compression: int, alpha_mask: int) -> bytes:
    """A BMP of 32 bits: pixels are RGBA."""
    data = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    height, width = pixels.shape[:2]
    head = struct.pack(
        "<IiiHHIIiiII", header, width, height, 1, 32, compression, len(data), *[0] * 4
    )
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha_mask)
    head += masks[:12] if header == 40 and compression == 3 else masks[: header - 40]
    head = head.ljust(header, b"\0")
    place = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", place + len(data), 0, 0, place) + head + data


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("compression", [0, 3])
@pytest.mark.parametrize("alpha_mask", [0, 0xFF000000])
def test_a_bmp_of_zero_alpha_is_opaque(header: int, compression: int, alpha_mask: int):
    data = bmp(with_alpha(0), header=header, compression=compression, alpha_mask=alpha_mask)
    np.testing.assert_array_equal(shown(data), COLORS)
    processor = ImageProcessor(ImageConfig(), 4)
    expected = processor(Image.fromarray(COLORS))
    np.testing.assert_array_equal(processor(data), expected)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(processor(opened), expected)


def test_a_bmp_with_alpha_has_it():
    alpha = np.arange(48).reshape(6, 8, 1) * 5
    data = bmp(with_alpha(alpha), header=108, compression=3, alpha_mask=0xFF000000)
    assert np.abs(shown(data) - over_white(with_alpha(alpha))).max() <= 1
    plain = bmp(with_alpha(alpha), header=108, compression=3, alpha_mask=0)
    np.testing.assert_array_equal(shown(plain), COLORS)


def rgb_tiff(pixels: np.ndarray, extra: list[int] | None) -> bytes:
    height, width, channels = pixels.shape
    tags: dict[int, tuple[int, Any]] = {258: (3, [8] * channels), 277: (3, [channels])}
    tags[262] = (3, [2])
    if extra is not None:
        tags[338] = (3, extra)
    return tiff(tags, pixels.tobytes(), width=width, height=height)


@pytest.mark.parametrize("extra", [None, [0], [2]])
def test_a_tiff_of_zero_alpha_is_opaque(extra: list[int] | None):
    np.testing.assert_array_equal(shown(rgb_tiff(with_alpha(0), extra)), COLORS)


def test_a_channel_of_a_tiff_that_is_no_alpha_is_none():
    channel = np.arange(48).reshape(6, 8, 1) * 5
    np.testing.assert_array_equal(shown(rgb_tiff(with_alpha(channel), [0])), COLORS)


def test_alpha_of_a_tiff_is_honored_premultiplied_or_not():
    alpha = np.arange(48).reshape(6, 8, 1) * 5
    straight = with_alpha(alpha)
    assert np.abs(shown(rgb_tiff(straight, [2])) - over_white(straight)).max() <= 1
    multiplied = straight.copy()
    multiplied[..., :3] = straight[..., :3] * (alpha / 255.0)
    expected = multiplied[..., :3] + (255 - alpha)
    assert np.abs(shown(rgb_tiff(multiplied, [1])).astype(int) - expected).max() <= 2


def test_a_gray_tiff_of_zero_alpha_is_opaque():
    gray = np.stack([COLORS[..., 0], np.zeros_like(COLORS[..., 0])], axis=-1)
    tags: dict[int, tuple[int, Any]] = {258: (3, [8, 8]), 277: (3, [2]), 338: (3, [2])}
    data = tiff(tags, gray.tobytes(), width=8, height=6)
    np.testing.assert_array_equal(shown(data)[..., 0], COLORS[..., 0])


def jp2(kinds: list[int] | None, alpha: int | np.ndarray) -> bytes:
    """A JPEG 2000 file of four channels: what each is, or no statement."""
    data = encode(Image.fromarray(with_alpha(alpha)), "JPEG2000", irreversible=False)
    start = data.index(b"cdef") - 4
    old = data[start : start + 34]
    entries = [(n, kind, 0 if kind else n + 1) for n, kind in enumerate(kinds or [])]
    content = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHH", *e) for e in entries)
    new = b"" if kinds is None else struct.pack(">I4s", len(content) + 8, b"cdef") + content
    header = data.index(b"jp2h") - 4
    size = int.from_bytes(data[header : header + 4], "big") + len(new) - len(old)
    data = data[:header] + struct.pack(">I", size) + data[header + 4 :]
    return data[:start] + new + data[start + len(old) :]


@pytest.mark.parametrize("kinds", [None, [0, 0, 0, 65_535], [0, 0, 0, 0]])
@pytest.mark.parametrize("alpha", [0, 77])
def test_a_fourth_channel_of_a_jpeg_2000_that_is_no_alpha_is_none(
    kinds: list[int] | None, alpha: int
):
    np.testing.assert_array_equal(shown(jp2(kinds, alpha)), COLORS)


def test_alpha_of_a_jpeg_2000_is_honored_unless_it_is_zero():
    straight = with_alpha(77)
    assert np.abs(shown(jp2([0, 0, 0, 1], 77)) - over_white(straight)).max() <= 1
    np.testing.assert_array_equal(shown(jp2([0, 0, 0, 1], 0)), COLORS)
    bare = encode(Image.fromarray(with_alpha(0)), "JPEG2000", no_jp2=True)
    np.testing.assert_array_equal(shown(bare), COLORS)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_a_transparent_png_or_webp_is_white(file_format: str):
    data = encode(Image.fromarray(with_alpha(0)), file_format, lossless=True)
    assert (shown(data) == WHITE).all()


def gray_row(depth: int) -> tuple[list[int], bytes]:
    values = [round(place * (2**depth - 1) / 7) for place in range(8)]
    bits = "".join(format(value, f"0{depth}b") for value in values)
    return values, int(bits, 2).to_bytes(depth, "big")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_transparent_gray_of_any_depth_is_white(depth: int, place: int):
    values, row = gray_row(depth)
    key = values[place]
    data = png([row], width=8, bit_depth=depth, color_type=0, transparency=struct.pack(">H", key))
    levels = np.array([255 if v == key else v * 255 / (2**depth - 1) for v in values])
    assert np.abs(shown(data)[0, :, 0] - levels).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_gray_beyond_the_depth_is_no_gray(depth: int):
    values, row = gray_row(depth)
    key = struct.pack(">H", values[1] + 2**depth)
    data = png([row], width=8, bit_depth=depth, color_type=0, transparency=key)
    plain = png([row], width=8, bit_depth=depth, color_type=0)
    np.testing.assert_array_equal(shown(data), shown(plain))


def test_keys_of_8_bits_are_read_from_their_low_byte():
    row = bytes(v for place in range(8) for v in (place * 30, 200, 10))
    low, high = struct.pack(">HHH", 60, 200, 10), struct.pack(">HHH", 316, 456, 266)
    images = [
        shown(png([row], width=8, bit_depth=8, color_type=2, transparency=key))
        for key in (low, high)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[1][0] == WHITE).all(axis=-1).tolist() == [n == 2 for n in range(8)]


def palette_png(order: str, transparency: bytes, checksum: int | None = None) -> bytes:
    colors = bytes(v for place in range(8) for v in (place * 30, 200, 10))
    chunks = {
        "H": chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, 8, 3, 0, 0, 0)),
        "P": chunk(b"PLTE", colors),
        "T": chunk(b"tRNS", transparency, checksum=checksum),
        "D": chunk(b"IDAT", zlib.compress(b"\0" + bytes(range(8)))),
        "E": chunk(b"IEND", b""),
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks[letter] for letter in order)


@pytest.mark.parametrize(
    ("order", "transparency", "checksum", "white"),
    [
        ("HPTDE", b"\xff\0\xff", None, [1]),
        ("HPTDE", bytes(20), None, list(range(8))),
        ("HPTDE", bytes(8), 1, []),
        ("HPDTE", bytes(8), None, []),
        ("HTPDE", bytes(8), None, []),
        ("HPTTDE", bytes(3), None, [0, 1, 2]),
    ],
    ids=["one", "too many", "wrong checksum", "after the pixels", "before the palette", "twice"],
)
def test_a_palettes_transparency_is_read_as_browsers_do(
    order: str, transparency: bytes, checksum: int | None, white: list[int]
):
    pixels = shown(palette_png(order, transparency, checksum))[0]
    assert np.flatnonzero((pixels == WHITE).all(axis=-1)).tolist() == white


def test_a_key_beside_real_alpha_is_none():
    data = encode(Image.new("RGBA", (4, 4), (250, 0, 0, 255)), "PNG")
    place = data.index(b"IDAT") - 4
    data = data[:place] + chunk(b"tRNS", struct.pack(">HHH", 250, 0, 0)) + data[place:]
    assert (shown(data) == (250, 0, 0)).all()


def gif(transparent: int | None, screen: tuple[int, int] = (8, 8)) -> bytes:
    image = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) % 4, (8, 1)), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    data = bytearray(encode(image, "GIF", transparency=3))
    control = data.index(b"!\xf9\x04")
    data[control + 3] = 0 if transparent is None else 1
    data[control + 6] = transparent or 0
    data[6:10] = struct.pack("<HH", *screen)
    return bytes(data)


@pytest.mark.parametrize("transparent", [4, 100, 200, 255])
def test_a_transparent_color_of_a_gif_outside_its_palette_hides_nothing(transparent: int):
    np.testing.assert_array_equal(shown(gif(transparent)), shown(gif(None)))
    assert (shown(gif(1))[0] == WHITE).all(axis=-1).tolist() == [n % 4 == 1 for n in range(8)]


@pytest.mark.parametrize("transparent", [None, 2])
def test_what_a_gifs_first_frame_leaves_free_is_white(transparent: int | None):
    pixels = shown(gif(transparent, screen=(16, 12)))
    np.testing.assert_array_equal(pixels[:8, :8], shown(gif(transparent)))
    assert (pixels[8:] == WHITE).all()
    assert (pixels[:, 8:] == WHITE).all()
