"""The resize rules against torchvision's, spelled out with Pillow calls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from preprocess.preprocess_images import random_rgb, scene

from perception_encoder.preprocess.transforms import resize
from perception_encoder.registry import ImageConfig

SQUASH = ImageConfig(resize="squash", interpolation="bilinear")
CENTER_CROP = ImageConfig(resize="center_crop", interpolation="bicubic")


def original_center_crop(image: Image.Image, size: int) -> Image.Image:
    """torchvision Resize(size, BICUBIC) then CenterCrop(size), line for line."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    top = int(round((new_height - size) / 2.0))  # noqa: RUF046 — as it stands there
    left = int(round((new_width - size) / 2.0))  # noqa: RUF046
    return image.crop((left, top, left + size, top + size))


def same(left: Image.Image, right: Image.Image) -> None:
    assert left.mode == right.mode
    np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=80, deadline=None)
@given(size=sizes, side=st.integers(1, 40), seed=st.integers(0, 9))
def test_squash_is_pillows_bilinear_resize(size: tuple[int, int], side: int, seed: int):
    image = Image.fromarray(random_rgb(*size, seed))
    expected = image.resize((side, side), Image.Resampling.BILINEAR)
    same(resize(image, image_size=side, config=SQUASH), expected)


@settings(max_examples=100, deadline=None)
@given(size=sizes, side=st.integers(1, 40), seed=st.integers(0, 9))
def test_center_crop_is_torchvisions(size: tuple[int, int], side: int, seed: int):
    image = Image.fromarray(random_rgb(*size, seed))
    same(resize(image, image_size=side, config=CENTER_CROP), original_center_crop(image, side))


@pytest.mark.parametrize("size", [(40, 3000), (3000, 40), (300, 200), (3, 500), (500, 3)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_resizing_only_the_kept_part_gives_nearly_the_same(
    mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    image = scene(*size).filter(ImageFilter.GaussianBlur(2)).convert(mode)
    whole = resize(image, image_size=56, config=CENTER_CROP)
    monkeypatch.setattr("perception_encoder.preprocess.transforms._MAX_WHOLE_PIXELS", 0)
    part = resize(image, image_size=56, config=CENTER_CROP)
    assert part.mode == whole.mode
    assert np.abs(np.asarray(part).astype(int) - np.asarray(whole)).max() <= 2


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_an_extreme_ratio_needs_little_memory(size: tuple[int, int]):
    # Literally, 224 × 13,440,000 pixels of 4 bytes: 12 GB.
    image = Image.new("RGB", size, (1, 2, 3))
    resized = resize(image, image_size=224, config=CENTER_CROP)
    np.testing.assert_array_equal(np.asarray(resized), np.full((224, 224, 3), (1, 2, 3)))


@pytest.mark.parametrize("config", [SQUASH, CENTER_CROP])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3000, 2), (2, 3000), (224, 224)])
def test_odd_shapes_reach_the_square(config: ImageConfig, size: tuple[int, int]):
    image = Image.new("RGB", size, (9, 8, 7))
    resized = resize(image, image_size=224, config=config)
    assert resized.size == (224, 224)
    assert resized.getextrema() == ((9, 9), (8, 8), (7, 7))


def test_the_callers_image_is_not_handed_out_at_the_same_size():
    image = Image.fromarray(random_rgb(16, 16))
    for config in (SQUASH, CENTER_CROP):
        resized = resize(image, image_size=16, config=config)
        resized.putpixel((0, 0), (0, 0, 0))
    np.testing.assert_array_equal(np.asarray(image), random_rgb(16, 16))
