"""Patch features at other sizes than the model's own."""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_models import (
    CLIP,
    CORE,
    FP32_ON_CPU,
    WITHOUT_POOLING,
    CountingBackend,
    as_bgr,
    drawing,
    open_tiny,
)

from perception_encoder.backends import open_random_backend
from perception_encoder.embedder.patch_features import MAX_PATCHES, GridChoice
from perception_encoder.errors import ImageDecodeError
from perception_encoder.preprocess import ImageProcessor

PATCH = CORE.vision.patch_size
FEATURE_TOLERANCE = 2e-5
IMAGES = [
    drawing(0, 64, 64),
    drawing(1, 90, 30),
    drawing(2, 5, 400),
    Image.new("RGB", (1, 1), "teal"),
]


@pytest.fixture(scope="module")
def tiny():
    return open_tiny(CORE)


@pytest.mark.parametrize("config", [CORE, WITHOUT_POOLING], ids=lambda config: config.id)
def test_its_own_size_gives_what_no_size_gives(config):
    model = open_tiny(config)
    plain = model.features(IMAGES)
    sized = model.features(IMAGES, image_size=config.vision.image_size)
    native = config.vision.grid_size
    assert [one.grid for one in sized] == [(native, native)] * len(IMAGES)
    np.testing.assert_array_equal(np.stack([one.values for one in sized]), plain)
    assert model.features(IMAGES[:1], layer=0)[0] == pytest.approx(
        model.features(IMAGES[:1], image_size=config.vision.image_size, layer=0)[0].values, abs=1e-6
    )


@pytest.mark.parametrize("config", [CORE, WITHOUT_POOLING, CLIP], ids=lambda config: config.id)
@pytest.mark.parametrize("grid", [(1, 1), (2, 7), (9, 9), (13, 3)])
def test_any_multiple_of_the_patch_is_a_size(config, grid):
    model = open_tiny(config)
    patch = config.vision.patch_size
    (found,) = model.features(IMAGES[1:2], image_size=(grid[0] * patch, grid[1] * patch))
    assert found.grid == grid
    assert found.values.shape == (grid[0] * grid[1], config.vision.width)
    assert found.values.dtype == np.float32
    assert found.as_map().shape == (*grid, config.vision.width)
    assert np.isfinite(found.values).all()


def test_the_model_reads_the_image_at_that_size(tiny):
    height, width = 3 * PATCH, 11 * PATCH
    (found,) = tiny.features([IMAGES[1]], image_size=(height, width))
    resized = IMAGES[1].resize((width, height), Image.Resampling.BILINEAR)
    expected = tiny.backend.features(np.array(resized)[None])[0]
    np.testing.assert_array_equal(found.values, expected)


def test_images_keep_their_aspect_within_the_squares_patches(tiny):
    found = tiny.features(IMAGES, image_size=12 * PATCH, keep_aspect=True)
    assert [one.grid for one in found] == [(12, 12), (6, 18), (107, 1), (12, 12)]
    assert [one.image_size for one in found] == [image.size for image in IMAGES]
    assert tiny.features([IMAGES[1]], keep_aspect=True)[0].grid == (2, 6)  # of 4 x 4


@given(
    side=st.integers(1, 128),
    width=st.integers(1, 30_000),
    height=st.integers(1, 30_000),
)
def test_every_grid_fits_and_is_about_as_long_as_the_image(side, width, height):
    rows, columns = GridChoice(side, side, keep_aspect=True).grid_for(width, height)
    assert 1 <= rows * columns <= side**2
    if min(rows, columns) >= 8:
        assert columns / rows == pytest.approx(width / height, rel=0.13)
        assert rows * columns >= 0.7 * side**2


def test_a_turned_photo_has_the_grid_of_the_upright_one(tiny, tmp_path):
    upright, turned = drawing(4, 120, 40), drawing(4, 120, 40).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    as_shown, as_stored = tiny.features([upright, tmp_path / "turned.png"], keep_aspect=True)
    assert as_stored.grid == as_shown.grid
    assert as_stored.image_size == (120, 40)
    assert np.abs(as_stored.values - as_shown.values).max() < 0.05  # a level of rounding


def test_the_reference_preprocessing_turns_nothing(tmp_path):
    model = open_tiny(
        CORE, processor=ImageProcessor(CORE.image, CORE.vision.image_size, preprocess="reference")
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    drawing(4, 40, 120).save(tmp_path / "turned.png", exif=exif)
    (found,) = model.features([tmp_path / "turned.png"], keep_aspect=True)
    assert found.image_size == (40, 120)
    assert found.grid == (6, 2)


def test_an_image_has_the_same_features_in_any_batch(tiny):
    images = [drawing(seed, 30 + 17 * (seed % 3), 40) for seed in range(7)]
    together = tiny.features(images, image_size=6 * PATCH, keep_aspect=True, batch_size=7)
    alone = [tiny.features([one], image_size=6 * PATCH, keep_aspect=True)[0] for one in images]
    assert len({one.grid for one in together}) == 3
    for one, other in zip(together, alone, strict=True):
        assert one.grid == other.grid
        np.testing.assert_allclose(one.values, other.values, atol=FEATURE_TOLERANCE, rtol=0)


class WatchedBackend(CountingBackend):
    """A backend that remembers the shapes of the images whose features it computed."""

    shapes: ClassVar[list[tuple[int, ...]]] = []

    def features(self, pixels, *, layer=-1):
        self.shapes.append(pixels.shape)
        return super().features(pixels, layer=layer)


def test_a_call_of_the_backend_is_bounded_in_patches():
    model = open_tiny(CORE, backend=WatchedBackend(open_random_backend(CORE, FP32_ON_CPU)))
    assert len(model.features(IMAGES * 2, image_size=64 * PATCH, batch_size=8)) == 8
    assert WatchedBackend.shapes == [(2, 64 * PATCH, 64 * PATCH, 3)] * 4


def test_centers_are_pixels_of_the_image(tiny):
    (found,) = tiny.features([drawing(0, 80, 40)], image_size=(2 * PATCH, 4 * PATCH))
    centers = found.centers()
    assert centers.tolist()[:5] == [[10, 10], [30, 10], [50, 10], [70, 10], [10, 30]]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (30, "use 24 or 32"),
        (3, "use 8"),
        (0, "use 8"),
        ((32, 33), "33 is no multiple of the model's patches of 8 pixels; use 32 or 40"),
        ((32, 32, 32), "height and width"),
        (8 * 200, "40,000 patches.*limit is 16,384, a square of 1,024 pixels"),
        ((8, 8 * (MAX_PATCHES + 1)), "16,385 patches"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_ones_that_can(tiny, size, message):
    with pytest.raises(ValueError, match=message):
        tiny.features(IMAGES[:1], image_size=size)


def test_a_height_with_a_width_defines_the_aspect(tiny):
    with pytest.raises(ValueError, match="leave out keep_aspect"):
        tiny.features(IMAGES[:1], image_size=(32, 64), keep_aspect=True)


def test_errors_name_the_image(tiny, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageDecodeError, match=r"broken\.png"):
        tiny.features([IMAGES[0], broken], image_size=16)
    with pytest.raises(ImageDecodeError, match="image 1"):
        tiny.features([IMAGES[0], b"no image"], image_size=16)
    with pytest.raises(ValueError, match="out of range"):
        tiny.features(IMAGES[:1], image_size=16, layer=2)
    with pytest.raises(ValueError, match="bgr"):
        tiny.features(IMAGES[:1], image_size=16, input_color_format="hsv")
    assert tiny.features([], image_size=16) == []


def test_arrays_are_bgr_and_stay_as_they_are(tiny):
    array = as_bgr(IMAGES[0])
    before = array.copy()
    by_array, by_image = tiny.features([array, IMAGES[0]], image_size=16)
    np.testing.assert_allclose(by_array.values, by_image.values, atol=FEATURE_TOLERANCE)
    assert (array == before).all()


def test_a_tall_image_on_a_wide_grid_takes_little_memory(tiny):
    tall = Image.new("L", (3, 120_000), 200)
    (found,) = tiny.features([tall], image_size=(PATCH, 2000 * PATCH))
    assert found.grid == (1, 2000)
