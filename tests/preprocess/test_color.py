"""Color profiles: `standard` and `fast` convert to sRGB as a viewer does, `reference` does not."""

import logging
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pylibjxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from preprocess import camera_files, color_profiles
from preprocess.color_profiles import ADOBE_RGB, DISPLAY_P3, REC2020, SRGB
from preprocess.preprocess_images import encode, scene

from perception_encoder.analysis.drawing import make_thumbnail
from perception_encoder.preprocess import ImageProcessor, color, decode_image
from perception_encoder.preprocess.transforms import to_rgb
from perception_encoder.registry import ImageConfig
from perception_encoder.video.color import tone_map

SCENE = scene(96, 80)
SIZE = 32
STANDARD = ImageProcessor(ImageConfig(), SIZE)
FAST = ImageProcessor(ImageConfig(), SIZE, preprocess="fast")
REFERENCE = ImageProcessor(ImageConfig(), SIZE, preprocess="reference")
WIDE = {"P3": DISPLAY_P3, "Adobe": ADOBE_RGB, "2020": REC2020}


def patch(image: Image.Image, profile: bytes, file_format: str = "PNG") -> bytes:
    """An image whose pixels are meant in a profile's colors."""
    return encode(image, file_format, icc_profile=profile)


def color_of(data: bytes, processor: ImageProcessor = STANDARD) -> tuple[int, ...]:
    return tuple(processor(data)[SIZE // 2, SIZE // 2].tolist())


def even(value: object, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (48, 48), value)


@pytest.mark.parametrize(
    ("profile", "stored", "shown"),
    [
        # Computed from the primaries and curves, without Little CMS: `expected` below.
        (DISPLAY_P3, (200, 100, 50), None),
        (ADOBE_RGB, (90, 160, 90), None),
        (REC2020, (120, 110, 100), None),
        (DISPLAY_P3, (128, 128, 128), (128, 128, 128)),
        (DISPLAY_P3, (0, 255, 0), (0, 255, 0)),  # beyond sRGB: the nearest that it has
    ],
)
def test_colors_are_those_of_the_profile(profile, stored, shown):
    if shown is None:
        shown = expected(profile, stored)
        assert max(abs(a - b) for a, b in zip(shown, stored, strict=True)) > 3
    found = color_of(patch(even(stored), profile))
    assert max(abs(a - b) for a, b in zip(found, shown, strict=True)) <= 2


def expected(profile: bytes, stored: tuple[int, ...]) -> tuple[int, ...]:
    spaces = {
        DISPLAY_P3: (color_profiles.P3_PRIMARIES, None),
        ADOBE_RGB: (color_profiles.ADOBE_PRIMARIES, 563 / 256),
        REC2020: (color_profiles.REC2020_PRIMARIES, 2.4),
    }
    primaries, gamma = spaces[profile]
    value = np.array(stored) / 255
    srgb_curve = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = srgb_curve if gamma is None else value**gamma
    xyz = color_profiles.colorants(primaries) @ linear
    linear = np.linalg.solve(color_profiles.colorants(color_profiles.SRGB_PRIMARIES), xyz)
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return tuple(np.rint(255 * curved).astype(int).tolist())


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC", "JXL"])
def test_every_format_brings_its_profile(file_format):
    stored = even((200, 100, 50))
    if file_format == "HEIC":
        data = encode(stored, "HEIC", icc_profile=DISPLAY_P3)
    elif file_format == "JXL":
        data = pylibjxl.encode(np.asarray(stored), lossless=True, icc=DISPLAY_P3)
    else:
        data = patch(stored, DISPLAY_P3, file_format)
    shown = expected(DISPLAY_P3, (200, 100, 50))
    for processor in (STANDARD, FAST):
        found = color_of(data, processor)
        assert max(abs(a - b) for a, b in zip(found, shown, strict=True)) <= 4


def test_a_preview_of_a_raw_file_brings_its_profile():
    stored = Image.new("RGB", (320, 240), (200, 100, 50))
    data = camera_files.nef(SCENE, patch(stored, ADOBE_RGB, "JPEG"))
    assert color_of(data) != color_of(encode(stored, "JPEG"))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("processor", [STANDARD, FAST, REFERENCE])
def test_srgb_changes_nothing_bit_for_bit(file_format, processor):
    assert np.array_equal(
        processor(patch(SCENE, SRGB, file_format)), processor(encode(SCENE, file_format))
    )
    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(
        processor(patch(SCENE, built_in, file_format)), processor(encode(SCENE, file_format))
    )


@pytest.mark.parametrize("profile", WIDE.values(), ids=WIDE)
def test_reference_stays_bit_for_bit(profile):
    plain = np.asarray(SCENE.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.array_equal(REFERENCE(patch(SCENE, profile)), plain)
    cmyk = SCENE.convert("CMYK")
    with_profile = encode(cmyk, "TIFF", icc_profile=color_profiles.cmyk_profile())
    assert np.array_equal(REFERENCE(with_profile), REFERENCE(encode(cmyk, "TIFF")))


class TestOtherChannels:
    def test_inks_are_mixed_as_the_profile_says(self):
        profile = color_profiles.cmyk_profile()
        for file_format in ("JPEG", "TIFF"):
            cyan = encode(even((255, 0, 0, 0), "CMYK"), file_format, icc_profile=profile)
            assert color_of(cyan)[0] == pytest.approx(88, abs=6)  # by Pillow alone it is 0
            paper = encode(even((0, 0, 0, 0), "CMYK"), file_format, icc_profile=profile)
            assert min(color_of(paper)) >= 254
            assert to_rgb(decode_image(cyan), item="it").mode == "RGB"

    def test_a_gray_profile_has_a_curve(self):
        linear = color_profiles.gray_profile(1.0)
        assert color_of(patch(even(55, "L"), linear)) == (128, 128, 128)
        assert color_of(patch(even(55, "L"), color_profiles.gray_profile(None))) == (55, 55, 55)

    def test_gray_pixels_may_have_a_profile_of_colors(self):
        shown = color_of(patch(even(60, "L"), REC2020, "JPEG"))
        assert shown == color_of(patch(even((60, 60, 60)), REC2020, "JPEG"))
        assert shown != (60, 60, 60)

    @pytest.mark.parametrize("mode", ["RGB", "CMYK"])
    def test_a_profile_of_another_number_of_channels_is_not_used(self, mode):
        image = SCENE.convert(mode)
        others = {"RGB": [color_profiles.cmyk_profile(), color_profiles.gray_profile(1.0)],
                  "CMYK": [DISPLAY_P3, color_profiles.gray_profile(1.0)]}[mode]  # fmt: skip
        for profile in others:
            data = encode(image, "TIFF", icc_profile=profile)
            assert np.array_equal(STANDARD(data), STANDARD(encode(image, "TIFF")))

    def test_palettes_and_transparency_are_converted_too(self):
        plain = color_of(patch(even((200, 100, 50)), DISPLAY_P3))
        assert color_of(patch(even((200, 100, 50)).quantize(4), DISPLAY_P3)) == plain
        clear = even((200, 100, 50, 0), "RGBA")
        assert color_of(patch(clear, DISPLAY_P3)) == (255, 255, 255)


def broken_profiles() -> dict[str, bytes]:
    whole = bytearray(DISPLAY_P3)
    no_curve = whole.replace(b"rTRC", b"xTRC")
    link = whole.replace(b"mntr", b"link")
    return {
        "cut": DISPLAY_P3[:200],
        "noise": bytes(range(256)) * 3,
        "text": b"profile",
        "empty": bytes(500),
        "no-curve": bytes(no_curve),
        "link": bytes(link),
        "counts": bytes(whole[:128] + b"\xff" * 12 + whole[140:]),
    }


@pytest.mark.parametrize("name", broken_profiles())
def test_a_broken_profile_is_as_none_and_is_logged_once(name, caplog):
    caplog.set_level(logging.INFO)
    color._read.cache_clear()
    data = patch(SCENE, broken_profiles()[name], "JPEG")
    for _ in range(3):
        assert np.array_equal(STANDARD(data), STANDARD(encode(SCENE, "JPEG")))
    assert len(caplog.records) <= 1
    assert all("cannot be used" in record.message for record in caplog.records)


def test_profiles_that_are_too_large_or_missing_parts_are_as_none():
    large = DISPLAY_P3 + bytes(color.MAX_PROFILE_BYTES)
    whole = encode(SCENE, "JPEG")
    assert np.array_equal(STANDARD(patch(SCENE, large, "JPEG")), STANDARD(whole))
    assert np.array_equal(STANDARD(patch(SCENE, large)), STANDARD(SCENE))
    part = b"ICC_PROFILE\0\x01\x02" + DISPLAY_P3
    segment = b"\xff\xe2" + struct.pack(">H", 2 + len(part)) + part
    assert np.array_equal(STANDARD(whole[:2] + segment + whole[2:]), STANDARD(whole))
    short = b"\xff\xe2\0\x0eICC_PROFILE\0"
    assert np.array_equal(STANDARD(whole[:2] + short + whole[2:]), STANDARD(whole))


def test_conversions_in_floats_are_not_used():
    """A profile may hold any number of their steps, each for every pixel."""
    steps = 3000
    matrix = b"matf" + bytes(4) + struct.pack(">HH", 3, 3) + struct.pack(
        ">12f", 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0
    )  # fmt: skip
    head = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, steps)
    first = len(head) + 8 * steps
    table = struct.pack(">II", first, len(matrix)) * steps
    slow = color_profiles.rgb_profile(
        color_profiles.P3_PRIMARIES, tags={b"D2B0": head + table + matrix}
    )
    assert color_of(patch(even((200, 100, 50)), slow)) == color_of(
        patch(even((200, 100, 50)), DISPLAY_P3)
    )


def test_threads_share_a_profile():
    data = [patch(scene(96, 80 + n), DISPLAY_P3) for n in range(4)] * 8
    alone = [STANDARD(one) for one in data]
    color._read.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(STANDARD, data))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_thumbnails_and_loaded_images_have_srgb_colors(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(patch(even((200, 100, 50)), DISPLAY_P3))
    shown = color_of(path.read_bytes())
    assert make_thumbnail(str(path), 16).getpixel((8, 8)) == shown
    image = decode_image(path)
    assert to_rgb(image, item="it", max_side=16).size == (16, 16)
    assert to_rgb(image, item="it", max_side=16).getpixel((8, 8)) == shown
    assert image.getpixel((8, 8)) == (200, 100, 50)  # the image that was given is not changed


@given(
    st.sampled_from([DISPLAY_P3, color_profiles.cmyk_profile(), color_profiles.gray_profile(1.8)]),
    st.lists(st.tuples(st.integers(0, 487), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_any_profile_is_used_or_ignored(profile, edits):
    content = bytearray(profile)
    for place, value in edits:
        content[place % len(content)] = value
    for mode in ("RGB", "L", "CMYK"):
        image = SCENE.convert(mode)
        image.info["icc_profile"] = bytes(content)
        converted = to_rgb(image, item="it")
        assert (converted.mode, converted.size) == ("RGB", SCENE.size)


def png(image: Image.Image, *chunks: tuple[bytes, bytes], **options: object) -> bytes:
    """A PNG with chunks before its pixels."""
    data = encode(image, "PNG", **options)
    added = b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:33] + added + data[33:]


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 * value))


def points(primaries: tuple[tuple[float, float], ...]) -> tuple[bytes, bytes]:
    white = (0.3127, 0.3290)
    numbers = [round(100_000 * number) for pair in (white, *primaries) for number in pair]
    return b"cHRM", struct.pack(">8I", *numbers)


P3_CODES = b"cICP", bytes((12, 13, 0, 1))
STORED = (200, 100, 50)


class TestDescribedColors:
    """Files that name their colors by numbers, without a profile."""

    @pytest.mark.parametrize("processor", [STANDARD, FAST])
    @pytest.mark.parametrize("file_format", ["PNG", "AVIF", "HEIC"])
    def test_code_points_are_converted_as_their_profile_is(self, file_format, processor):
        codes = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}
        match file_format:
            case "PNG":
                data = png(even(STORED), P3_CODES)
            case "HEIC":
                data = encode(even(STORED), "HEIC", **codes, full_range_flag=1)
            case _:
                written = bytearray(encode(even(STORED), "AVIF"))
                place = written.index(b"colrnclx") + 8
                written[place : place + 2] = (12).to_bytes(2, "big")
                data = bytes(written)
        shown = expected(DISPLAY_P3, STORED)
        found = color_of(data, processor)
        assert max(abs(a - b) for a, b in zip(found, shown, strict=True)) <= 4
        assert np.array_equal(REFERENCE(data), REFERENCE(encode(even(STORED), file_format)))

    @pytest.mark.parametrize(
        ("chunks", "profile", "shown_by"),
        [
            ([P3_CODES], ADOBE_RGB, DISPLAY_P3),  # code points come before all others,
            ([gamma(1.0)], DISPLAY_P3, DISPLAY_P3),  # a profile before the older chunks,
            ([(b"sRGB", b"\0"), gamma(1.0)], None, None),  # and sRGB as well
            ([points(color_profiles.ADOBE_PRIMARIES), gamma(256 / 563)], None, ADOBE_RGB),
            ([points(color_profiles.P3_PRIMARIES)], None, DISPLAY_P3),  # without a gamma: sRGB's
            ([(b"cICP", bytes((1, 13, 0, 1)))], ADOBE_RGB, None),
            ([(b"cICP", bytes((3, 99, 0, 1)))], ADOBE_RGB, ADOBE_RGB),  # codes of nothing
            ([(b"cICP", bytes((12, 13, 1, 1)))], None, None),  # no RGB
        ],
    )
    def test_the_order_of_a_png_is_that_of_browsers(self, chunks, profile, shown_by):
        options = {} if profile is None else {"icc_profile": profile}
        found = color_of(png(even(STORED), *chunks, **options))
        shown = STORED if shown_by is None else expected(shown_by, STORED)
        assert max(abs(a - b) for a, b in zip(found, shown, strict=True)) <= 2

    def test_a_gamma_is_applied_also_to_gray(self):
        for mode, value in (("L", 55), ("RGB", (55, 55, 55))):
            assert color_of(png(even(value, mode), gamma(1.0))) == (128, 128, 128)
        assert color_of(png(even((55, 55, 55)).quantize(4), gamma(1.0))) == (128, 128, 128)

    @pytest.mark.parametrize(
        "chunk", [gamma(0.45455), (b"cICP", bytes((1, 13, 0, 1))), (b"cICP", bytes((1, 1, 0, 1)))]
    )
    def test_the_usual_values_change_nothing_bit_for_bit(self, chunk):
        for processor in (STANDARD, FAST, REFERENCE):
            assert np.array_equal(processor(png(SCENE, chunk)), processor(SCENE))

    @pytest.mark.parametrize("transfer", [16, 18])
    def test_hdr_is_mapped_to_what_a_screen_shows(self, transfer):
        for level in (20, 100, 148, 190, 255):
            shown = color_of(png(even((level,) * 3), (b"cICP", bytes((9, transfer, 0, 1)))))
            wanted = tone_map(np.full((1, 1, 3), 257 * level, np.uint16), transfer)[0, 0]
            assert max(abs(a - int(b)) for a, b in zip(shown, wanted, strict=True)) <= 2
        red = color_of(png(even((150, 90, 80)), (b"cICP", bytes((9, transfer, 0, 1)))))
        assert red[0] > red[1] + 60  # colors stay apart, where ignoring them would make it gray

    @given(
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=32, max_size=32) | st.just(bytes(32)),
    )
    def test_any_description_is_used_or_ignored(self, codes, exponent, chromaticities):
        for chunks in (
            [(b"cICP", codes)],
            [(b"gAMA", exponent), (b"cHRM", chromaticities)],
            [(b"cICP", codes[:3]), (b"gAMA", b"")],
        ):
            assert STANDARD(png(even(STORED), *chunks)).shape == (SIZE, SIZE, 3)
