"""What "fast" leaves out: which images it shrinks, how near the result stays, what it reports."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from preprocess.preprocess_images import encode, random_rgb

from perception_encoder.errors import ImageTooLargeError, ImageTruncatedError
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.decode import decode_scaled
from perception_encoder.registry import ImageConfig, find

PE = ImageConfig()
CLIP = find("clip/ViT-B-32").config.image
MODELS = pytest.mark.parametrize("config", [PE, CLIP], ids=["pe", "clip"])
TURNS = pytest.mark.parametrize("orientation", range(1, 9))
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def smooth(width: int, height: int) -> Image.Image:
    """An image without symmetry and without fine detail, as photos of many pixels are."""
    coarse = Image.fromarray(random_rgb(7, 5, seed=3))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: object) -> bytes:
    return encode(image, "JPEG", **{"quality": 95, **options})


def turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(image, exif=exif)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


@settings(max_examples=120, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), min_side=st.integers(1, 60))
def test_a_jpeg_is_never_shrunk_below_the_side_on_either_axis(
    width: int, height: int, min_side: int
):
    data = jpeg(Image.new("RGB", (width, height), (90, 120, 30)))
    image, full_size, covered = decode_scaled(data, min_side=min_side)
    assert full_size == (width, height)
    factor = width / covered[0]
    assert factor == height / covered[1]
    assert factor in (1, 2, 4, 8)
    assert image.size == (-(-width // factor), -(-height // factor))
    if factor > 1:
        assert min(image.size) >= min_side
    if factor < 8:
        assert min(width, height) < 2 * factor * min_side, "it could have been smaller"


@MODELS
@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(8, 100))
def test_images_that_are_not_large_are_those_of_standard(
    config: ImageConfig, width: int, height: int, size: int
):
    if min(width, height) >= 4 * size or max(width, height) >= 6 * size:
        return
    image = Image.fromarray(random_rgb(width, height, seed=height))
    fast, standard = (
        ImageProcessor(config, size, preprocess=name) for name in ("fast", "standard")
    )
    for data in (jpeg(image), encode(image, "PNG"), np.asarray(image)):
        np.testing.assert_array_equal(fast(data), standard(data))


@TURNS
@MODELS
@pytest.mark.parametrize("shape", [(1003, 501), (517, 1201), (640, 640)], ids=str)
def test_every_turn_of_a_shrunk_jpeg_stays_near_standard(
    orientation: int, config: ImageConfig, shape: tuple[int, int]
):
    data = turned(smooth(*shape), orientation)
    assert decode_scaled(data, min_side=60).image.size != shape
    fast = ImageProcessor(config, 30, preprocess="fast").resize_measured(data)
    standard = ImageProcessor(config, 30).resize_measured(data)
    assert difference(fast.pixels, standard.pixels).max() <= 3
    assert (fast.width, fast.height) == (standard.width, standard.height)
    assert (fast.width, fast.height) == (shape if orientation < 5 else shape[::-1])


@TURNS
@MODELS
@pytest.mark.parametrize("shape", [(83, 54), (54, 83), (71, 71), (90, 31)], ids=str)
def test_turning_after_the_resize_is_turning_before_it(
    orientation: int, config: ImageConfig, shape: tuple[int, int]
):
    image = smooth(*shape)
    data = encode(image, "PNG", exif=exif_of(orientation))
    before = image.transpose(UPRIGHT[orientation]) if orientation > 1 else image
    expected = ImageProcessor(config, 24)(before)
    allowed = 0 if orientation < 5 else 1  # rows and columns are filtered in another order
    assert difference(ImageProcessor(config, 24)(data), expected).max() <= allowed


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_turned_strip_is_cropped_in_the_same_place():
    # So long that only its middle is resized; that has its own arithmetic.
    strip = smooth(6000, 2)
    for orientation in range(1, 9):
        before = strip.transpose(UPRIGHT[orientation]) if orientation > 1 else strip
        process = ImageProcessor(CLIP, 101)
        turned_after = process(encode(strip, "PNG", exif=exif_of(orientation)))
        assert difference(turned_after, process(before)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("L", {}),
        ("CMYK", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"subsampling": "4:2:0", "quality": 60}),
        ("RGB", {"subsampling": "4:2:2", "quality": 75}),
    ],
    ids=str,
)
def test_every_kind_of_jpeg_stays_near_standard(mode: str, options: dict[str, object]):
    data = jpeg(smooth(1001, 777).convert(mode), **options)
    for size in (24, 50):
        assert decode_scaled(data, min_side=2 * size).image.width < 1001
        fast = ImageProcessor(PE, size, preprocess="fast")(data)
        near = difference(fast, ImageProcessor(PE, size)(data))
        assert near.max() <= 4
        assert near.mean() < 0.6


@pytest.mark.parametrize("shape", [(3000, 99), (99, 3000)], ids=str)
def test_a_narrow_jpeg_keeps_its_short_side(shape: tuple[int, int]):
    data = jpeg(smooth(*shape))
    assert decode_scaled(data, min_side=64).image.size == shape
    fast = ImageProcessor(PE, 32, preprocess="fast")(data)
    assert difference(fast, ImageProcessor(PE, 32)(data)).max() <= 2


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "array"])
def test_large_images_of_other_formats_stay_near_standard(file_format: str):
    image = Image.fromarray(random_rgb(901, 700)).filter(ImageFilter.GaussianBlur(2))
    data = np.asarray(image) if file_format == "array" else encode(image, file_format)
    fast, standard = (ImageProcessor(PE, 32, preprocess=name) for name in ("fast", "standard"))
    near = difference(fast(data), standard(data))
    assert near.max() <= 2
    assert near.any(), "the image was to be large enough for two steps"


def test_photos_stay_near_standard(photos: list[Path]):
    fast, standard = (ImageProcessor(PE, 64, preprocess=name) for name in ("fast", "standard"))
    for path in photos:
        near = difference(fast(path), standard(path))
        assert near.mean() < 1.5, path
        assert np.quantile(near, 0.99) <= 8, path


def test_the_limit_is_that_of_the_whole_image():
    data = jpeg(smooth(400, 300))
    with pytest.raises(ImageTooLargeError, match="400 × 300 = 120000 pixels"):
        ImageProcessor(PE, 8, preprocess="fast", max_pixels=119_999)(data)
    assert ImageProcessor(PE, 8, preprocess="fast", max_pixels=120_000)(data).shape == (8, 8, 3)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_truncated_also_where_most_of_it_is_left_out(progressive: bool):
    data = jpeg(Image.fromarray(random_rgb(400, 300)), progressive=progressive)
    for kept in (0.4, 0.95):
        with pytest.raises(ImageTruncatedError):
            ImageProcessor(PE, 8, preprocess="fast")(data[: int(kept * len(data))])


def test_the_callers_image_is_not_shrunk():
    image = Image.open(io.BytesIO(jpeg(smooth(400, 300))))
    fast = ImageProcessor(PE, 16, preprocess="fast").resize_measured(image)
    assert image.size == (400, 300) == (fast.width, fast.height)
    assert np.asarray(image).shape == (300, 400, 3)


def test_gray_images_have_three_equal_channels():
    gray = smooth(300, 200).convert("L")
    for name in ("standard", "fast"):
        process = ImageProcessor(PE, 24, preprocess=name)
        prepared = process(jpeg(gray))
        assert (prepared == prepared[..., :1]).all()
    standard = ImageProcessor(PE, 24)
    np.testing.assert_array_equal(standard(gray), standard(gray.convert("RGB")))


@pytest.mark.parametrize("name", ["standard", "reference", "fast"])
def test_the_reported_size_is_that_of_the_upright_image(name: str, tmp_path: Path):
    path = tmp_path / "image"
    for orientation, size in ((1, (300, 200)), (3, (300, 200)), (6, (200, 300)), (8, (200, 300))):
        for data in (
            turned(smooth(300, 200), orientation),
            encode(smooth(300, 200), "TIFF", exif=exif_of(orientation)),
        ):
            path.write_bytes(data)
            resize_measured = ImageProcessor(PE, 16, preprocess=name).resize_measured(path)
            assert (resize_measured.width, resize_measured.height) == size
