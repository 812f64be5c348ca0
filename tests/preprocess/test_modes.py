"""What a viewer shows: every color mode and orientation becomes the right upright RGB."""

import io

import numpy as np
import pytest
from PIL import Image
from preprocess.preprocess_images import encode, png, random_rgb, scene

from perception_encoder.errors import ImageDecodeError, ImageValueError
from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess.transforms import convert_to_rgb, to_rgb, turn_upright

ORIENTATION = 0x0112
# What the EXIF standard says must be done to the stored rows and columns.
TURNED = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def shown(image: object, **options: object) -> np.ndarray:
    return np.asarray(to_rgb(turn_upright(decode_image(image, **options)), item="test"))


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_exif_orientation_is_applied(file_format: str, orientation: int):
    options = {"lossless": True} if file_format == "WEBP" else {}
    upright_file = encode(scene(), file_format, **options)
    turned_file = encode(scene(), file_format, exif=exif_of(orientation), **options)
    expected = TURNED[orientation](np.asarray(Image.open(io.BytesIO(upright_file)).convert("RGB")))
    np.testing.assert_array_equal(shown(turned_file), expected)


@pytest.mark.parametrize("orientation", TURNED)
def test_a_heic_arrives_turned_once(orientation: int):
    image = scene(64, 48)
    pixels = shown(encode(image, "HEIC", exif=exif_of(orientation).tobytes())).astype(int)
    expected = TURNED[orientation](np.asarray(image))
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 4


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "I", "F", "CMYK"])
def test_other_modes_turn_too(mode: str):
    image = Image.new("I;16", (40, 28)) if mode == "I;16" else scene().convert(mode)
    image = Image.new("F", (40, 28), 0.5) if mode == "F" else image
    image.getexif()[ORIENTATION] = 6
    assert shown(image).shape == (40, 28, 3)


def test_orientation_in_xmp_is_applied():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    data = encode(scene(), "JPEG", xmp=xmp)
    plain = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(shown(data), np.rot90(plain, 1))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_upright(orientation: int):
    data = encode(scene(), "PNG", exif=exif_of(orientation))
    np.testing.assert_array_equal(shown(data), np.asarray(scene()))


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of the broken block
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 60, b""],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_spoil_an_image(file_format: str, exif: bytes):
    data = encode(scene(), file_format, exif=exif)
    assert shown(data).shape == (28, 40, 3)
    assert shown(Image.open(io.BytesIO(data))).shape == (28, 40, 3)


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(float) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_alpha_is_composited_over_white():
    rgba = np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    image = Image.fromarray(rgba)
    for source in (image, encode(image, "PNG"), encode(image, "TIFF"), rgba[..., [2, 1, 0, 3]]):
        pixels = shown(source)
        assert np.abs(pixels - over_white(rgba)).max() <= 0.51, "more than rounding"
        np.testing.assert_array_equal(pixels[0], 255)
        np.testing.assert_array_equal(pixels[1], rgba[1, :, :3])


def test_alpha_that_hides_nothing_costs_no_level_and_a_single_clear_pixel_is_white():
    colors = np.random.default_rng(5).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = Image.fromarray(colors)
    image.putalpha(255)
    np.testing.assert_array_equal(shown(image), colors)
    image.putpixel((4, 2), (0, 0, 0, 0))
    colors[2, 4] = 255
    np.testing.assert_array_equal(shown(image), colors)


@pytest.mark.parametrize("file_format", ["WEBP", "AVIF", "HEIC", "JPEG2000"])
def test_alpha_of_other_formats_is_composited_too(file_format: str):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, 16:] = (200, 0, 0, 255)
    pixels = shown(encode(Image.fromarray(rgba), file_format)).astype(int)
    assert np.abs(pixels[:, :12] - 255).max() <= 6
    assert np.abs(pixels[:, 20:] - (200, 0, 0)).max() <= 12


def test_gray_with_alpha_and_premultiplied_modes():
    rgba = np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8)
    rgba[..., 1] = rgba[..., 2] = rgba[..., 0]
    gray_alpha = Image.merge("LA", [Image.fromarray(rgba[..., band]) for band in (0, 3)])
    assert np.abs(shown(gray_alpha) - over_white(rgba)).max() <= 0.51
    # Premultiplied pixels have lost precision: at alpha a, one level is worth 255 / a; over white
    # it shrinks back to about one.
    assert np.abs(shown(gray_alpha.convert("La")) - over_white(rgba)).max() <= 1.6
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    assert np.abs(shown(premultiplied) - over_white(rgba)).max() <= 1.6


def palette_image(mode: str = "P") -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    return image.convert(mode) if mode != "P" else image


def test_palettes_become_their_colors():
    expected = [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    for source in (palette_image(), encode(palette_image(), "PNG"), encode(palette_image(), "GIF")):
        np.testing.assert_array_equal(shown(source), expected)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff", b"\xff\x00"])
def test_transparent_palette_entries_become_white(transparency: int | bytes):
    expected = [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    data = encode(palette_image(), "PNG", transparency=transparency)
    np.testing.assert_array_equal(shown(data), expected)
    in_memory = palette_image()
    in_memory.info["transparency"] = transparency
    np.testing.assert_array_equal(shown(in_memory), expected)


def test_a_half_transparent_palette_entry_is_mixed_with_white():
    data = encode(palette_image(), "PNG", transparency=b"\xff\x80\xff")
    np.testing.assert_array_equal(shown(data)[0, 1], [127, 255, 127])


def test_a_transparent_gif_is_over_white():
    data = encode(palette_image(), "GIF", transparency=2)
    np.testing.assert_array_equal(shown(data), [[[255, 0, 0], [0, 255, 0], [255, 255, 255]]])


def test_palette_with_alpha_is_composited():
    image = palette_image("PA")
    image.putalpha(Image.frombytes("L", (3, 1), bytes([255, 0, 255])))
    np.testing.assert_array_equal(shown(image), [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]])


def test_a_transparent_color_of_a_png_becomes_white():
    gray = png([b"\x05\x06\xff"], width=3, bit_depth=8, color_type=0, transparency=b"\0\x05")
    np.testing.assert_array_equal(shown(gray)[0, :, 0], [255, 6, 255])
    row = bytes([5, 6, 7, 5, 6, 8])
    rgb = png([row], width=2, bit_depth=8, color_type=2, transparency=b"\0\5\0\6\0\7")
    np.testing.assert_array_equal(shown(rgb), [[[255, 255, 255], [5, 6, 8]]])


def test_a_transparent_color_of_a_16_bit_png_becomes_white():
    gray = png([b"\x05\x01\x06\x01"], width=2, bit_depth=16, color_type=0, transparency=b"\5\1")
    np.testing.assert_array_equal(shown(gray)[0, :, 0], [255, 6])
    key = b"\5\1\6\1\7\1"
    rgb = png([key + b"\1\0" * 3], width=2, bit_depth=16, color_type=2, transparency=key)
    np.testing.assert_array_equal(shown(rgb), [[[255, 255, 255], [1, 1, 1]]])


def test_one_bit_is_black_and_white():
    bits = Image.fromarray(np.eye(9, dtype=np.uint8) * 255).convert("1")
    for source in (bits, encode(bits, "PNG"), encode(bits, "TIFF", compression="group4")):
        np.testing.assert_array_equal(shown(source)[..., 1], np.eye(9) * 255)


def test_16_bit_gray_keeps_its_high_byte_in_every_carrier():
    values = np.array([[0, 255, 256, 12_345, 65_280, 65_535]], np.uint16)
    image = Image.fromarray(values)
    big_endian = Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes())
    wide = Image.fromarray(values.astype(np.int32))
    sources = [image, big_endian, wide, encode(image, "PNG"), encode(image, "TIFF"), values]
    sources.append(encode(big_endian, "TIFF"))
    for source in sources:
        expected = [[0, 0, 1, 48, 255, 255]]
        for channel in range(3):
            np.testing.assert_array_equal(shown(source)[..., channel], expected)


def test_32_bit_integers_are_clipped_to_16_bits():
    image = Image.fromarray(np.array([[-5, 70_000, 2**31 - 1]], np.int32))
    np.testing.assert_array_equal(shown(image)[..., 0], [[0, 255, 255]])


def test_16_bit_color_keeps_its_high_byte():
    row = bytes.fromhex("1234 80ff ff00")
    data = png([row], width=1, bit_depth=16, color_type=2)
    np.testing.assert_array_equal(shown(data), [[[0x12, 0x80, 0xFF]]])


def test_float_images_span_0_to_1_as_float_arrays_do():
    values = np.array([[0, 0.25, 0.5, 1]], np.float32)
    for source in (Image.fromarray(values), encode(Image.fromarray(values), "TIFF")):
        np.testing.assert_array_equal(shown(source)[..., 0], [[0, 64, 128, 255]])


def test_float_images_outside_0_to_1_are_refused():
    image = Image.fromarray(np.array([[0.0, 200.0]], np.float32))
    with pytest.raises(ImageValueError, match=r"photo\.tif: float pixels .*0\.\.200"):
        to_rgb(image, item="photo.tif")


@pytest.mark.parametrize(
    ("mode", "tolerance"), [("YCbCr", 2), ("HSV", 4), ("LAB", 10), ("CMYK", 1)]
)
def test_other_color_spaces_become_their_rgb(mode: str, tolerance: int):
    colors = np.array([[[200, 60, 30], [20, 180, 90], [40, 50, 210], [128, 128, 128]]], np.uint8)
    image = Image.fromarray(colors).convert(mode)
    assert image.mode == mode
    assert np.abs(shown(image).astype(int) - colors).max() <= tolerance


def test_ordinary_rgb_is_not_copied():
    image = Image.fromarray(random_rgb(5, 4))
    assert turn_upright(image) is image
    assert to_rgb(image, item="test") is image


def snapshot(image: Image.Image) -> tuple[object, ...]:
    palette = image.getpalette("RGBA") if image.mode in ("P", "PA") else None
    return image.mode, image.size, image.tobytes(), dict(image.info), palette


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "I", "I;16", "YCbCr"]
)
def test_the_callers_pil_image_is_never_changed(mode: str):
    if mode == "La":
        image = scene().convert("LA").convert("La")
    elif mode == "RGBa":
        image = scene().convert("RGBA").convert("RGBa")
    else:
        image = Image.new(mode, (9, 9)) if mode == "I;16" else scene().convert(mode)
    image.info["exif"] = exif_of(6).tobytes()
    if mode in ("1", "L", "P"):
        image.info["transparency"] = b"\x00\x80" if mode == "P" else 10
    before = snapshot(image)
    shown(image)
    assert snapshot(image) == before


def test_a_palette_with_impossible_transparency_is_named():
    image = palette_image()
    image.info["transparency"] = (1, 2, 3)
    with pytest.raises(ImageDecodeError, match=r"a\.png: mode P cannot become RGBA"):
        to_rgb(image, item="a.png")


def test_a_mode_that_pillow_cannot_convert_is_named():
    image = scene().convert("LA").convert("La")
    with pytest.raises(ImageDecodeError, match=r"a\.png: mode La cannot become RGB"):
        convert_to_rgb(image, item="a.png")
