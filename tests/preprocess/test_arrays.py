"""Arrays and tensors: layouts, dtypes and ranges; the caller's memory is only read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from preprocess.preprocess_images import random_rgb

from perception_encoder.errors import ImageValueError
from perception_encoder.preprocess import decode_image

RGB = random_rgb(7, 5)
ALPHA = np.random.default_rng(1).integers(0, 256, (5, 7, 1), dtype=np.uint8)


def pixels(image: object, **options: object) -> np.ndarray:
    return np.asarray(decode_image(image, **options))


def test_an_array_is_bgr_unless_said_otherwise():
    np.testing.assert_array_equal(pixels(RGB[..., ::-1]), RGB)
    np.testing.assert_array_equal(pixels(RGB[..., ::-1], input_color_format="bgr"), RGB)
    np.testing.assert_array_equal(pixels(RGB, input_color_format="rgb"), RGB)


def test_a_fourth_channel_is_alpha_and_stays_last():
    rgba = np.concatenate([RGB, ALPHA], axis=2)
    bgra = np.concatenate([RGB[..., ::-1], ALPHA], axis=2)
    for array, color_format in ((rgba, "rgb"), (bgra, "bgr")):
        decoded = decode_image(array, input_color_format=color_format)
        assert decoded.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(decoded), rgba)


@pytest.mark.parametrize("color_format", ["bgr", "rgb"])
def test_gray_arrays_have_one_channel_or_none(color_format: str):
    gray = RGB[..., 0]
    for array in (gray, gray[..., None]):
        decoded = decode_image(array, input_color_format=color_format)
        assert decoded.mode == "L"
        np.testing.assert_array_equal(np.asarray(decoded), gray)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_eight_bit_levels_come_back_exactly(dtype: type):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(pixels(levels.astype(dtype) / dtype(255)), levels)


def test_floats_round_to_the_nearest_level_and_tolerate_rounding_errors():
    values = np.array([[-1e-6, 0.0, 0.499 / 255, 0.501 / 255, 127.6 / 255, 1.0, 1 + 1e-6]])
    np.testing.assert_array_equal(pixels(values), [[0, 0, 0, 1, 128, 255, 255]])


@pytest.mark.parametrize("bad", [1.5, -0.1, 255.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_outside_the_range_are_refused_by_name(bad: float, dtype: type):
    array = np.full((4, 4, 3), 0.5, dtype)
    array[2, 1, 0] = bad
    with pytest.raises(ImageValueError, match=r"image 3 of the batch: float pixels .* 0\.\.1"):
        decode_image(array, item="image 3 of the batch")


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_16_bit_values_keep_their_high_byte(byte_order: str):
    values = np.array([[0, 255, 256, 32_767, 32_768, 65_535]], byte_order + "u2")
    np.testing.assert_array_equal(pixels(values), [[0, 0, 1, 127, 128, 255]])
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for widened in (levels * 257, levels * 256):
        np.testing.assert_array_equal(pixels(widened), levels)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((), np.uint8), r"shape \(\)"),
        (np.zeros((2, 5, 7, 3), np.uint8), "pass a batch where a batch is expected"),
        (np.zeros((5, 7, 2), np.uint8), r"\(H, W, 1 \| 3 \| 4\)"),
        (np.zeros((3, 5, 7), np.uint8), r"channels first: transpose\(1, 2, 0\)"),
        (np.zeros((5, 7, 3), np.int64), "dtype int64"),
        (np.zeros((5, 7), np.bool_), "dtype bool"),
        (np.zeros((5, 7, 3), np.complex64), "dtype complex64"),
        (np.full((5, 7, 3), None), "dtype object"),
        (np.zeros((0, 7, 3), np.uint8), "no pixels"),
        (np.zeros((5, 0, 3), np.float32), "no pixels"),
        (np.zeros((0, 0), np.uint8), "no pixels"),
    ],
    ids=lambda value: str(value.shape) if isinstance(value, np.ndarray) else None,
)
def test_arrays_that_are_no_image_say_why_and_which(array: np.ndarray, why: str):
    with pytest.raises(ImageValueError, match=why) as caught:
        decode_image(array, item="image 7 of the batch")
    assert caught.value.item == "image 7 of the batch"
    assert str(caught.value).startswith("image 7 of the batch: ")
    assert isinstance(caught.value, ValueError)


def test_an_unknown_channel_order_is_a_value_error():
    with pytest.raises(ValueError, match="'bgr' or 'rgb', not 'gbr'"):
        decode_image(RGB, input_color_format="gbr")


def views() -> dict[str, np.ndarray]:
    base = np.random.default_rng(2).integers(0, 256, (12, 10, 6), dtype=np.uint8)
    readonly = base[..., :3].copy()
    readonly.flags.writeable = False
    return {
        "every other pixel": base[::2, ::2, :3],
        "upside down": base[::-1, :, :3],
        "mirrored, channels reversed": base[:, ::-1, 2::-1],
        "transposed": base[..., :3].transpose(1, 0, 2),
        "fortran order": np.asfortranarray(base[..., :3]),
        "broadcast": np.broadcast_to(base[:1, :1, :3], (9, 8, 3)),
        "read-only": readonly,
        "float view": (base[::-2, ::2, :3] / 255).astype(np.float32)[::-1],
        "16 bit": base[..., 0].astype(np.uint16)[::-1, ::-1] * 257,
        "alpha": base[..., 5:1:-1],
    }


@pytest.mark.parametrize("name", views())
def test_any_strides_give_the_image_and_leave_the_array_alone(name: str):
    array = views()[name]
    before = array.copy()
    contiguous = np.ascontiguousarray(array)
    np.testing.assert_array_equal(pixels(array), pixels(contiguous))
    np.testing.assert_array_equal(array, before)
    assert array.flags.writeable == views()[name].flags.writeable


@settings(max_examples=50, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.float32]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
            lambda shape: st.sampled_from([shape, (*shape, 1), (*shape, 3), (*shape, 4)])
        ),
        elements={"min_value": 0, "max_value": 1},
    )
)
def test_every_legal_array_keeps_its_size_and_its_values(array: np.ndarray):
    before = array.copy()
    assert decode_image(array).size == (array.shape[1], array.shape[0])
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_float_tensors_are_rgb_with_channels_first(dtype: torch.dtype):
    levels = np.zeros((3, 4, 6), np.uint8)
    levels[0], levels[1, 1], levels[2, :, 2] = 255, 255, 255
    tensor = torch.from_numpy(levels / 255).to(dtype)
    np.testing.assert_array_equal(pixels(tensor), levels.transpose(1, 2, 0))


def test_uint8_tensors_ignore_the_color_format_of_arrays():
    tensor = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    for color_format in ("bgr", "rgb"):
        np.testing.assert_array_equal(pixels(tensor, input_color_format=color_format), RGB)


def test_gray_alpha_and_parameter_tensors_are_images_too():
    gray = torch.from_numpy(RGB[..., 0].copy())
    assert decode_image(gray).mode == decode_image(gray[None]).mode == "L"
    assert decode_image(torch.zeros(4, 5, 7, dtype=torch.uint8)).mode == "RGBA"
    parameter = torch.nn.Parameter(torch.full((3, 5, 7), 0.2))
    np.testing.assert_array_equal(pixels(parameter), np.full((5, 7, 3), 51))
    assert parameter.requires_grad


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((5, 7, 3), r"channels first"),
        ((2, 5, 7), r"channels first"),
        ((1, 3, 5, 7), "pass a batch"),
        ((9,), "shape"),
        ((3, 0, 7), "no pixels"),
    ],
)
def test_tensors_that_are_no_image_say_why_and_which(shape: tuple[int, ...], why: str):
    with pytest.raises(ImageValueError, match=why) as caught:
        decode_image(torch.zeros(shape), item="image 1 of the batch")
    assert caught.value.item == "image 1 of the batch"


def test_a_tensor_outside_the_range_is_refused_and_unchanged():
    tensor = torch.linspace(0, 255, 3 * 5 * 7).reshape(3, 5, 7)
    before = tensor.clone()
    with pytest.raises(ImageValueError, match=r"got 0\.\.255"):
        decode_image(tensor)
    assert torch.equal(tensor, before)


def test_a_tensor_view_of_any_strides_is_only_read():
    base = torch.from_numpy(random_rgb(10, 8, seed=3)).permute(2, 0, 1)
    view = base.flip(0)[:, ::2, 1::3]
    before = view.clone()
    np.testing.assert_array_equal(pixels(view), before.permute(1, 2, 0).numpy())
    assert torch.equal(view, before)


def test_a_large_gray_array_makes_no_copy():
    gray = np.zeros((64, 64), np.uint8)
    image = decode_image(gray)
    gray[:] = 9  # the image reads the array's memory; the processor copies when it resizes
    assert Image.Image.getextrema(image) == (9, 9)
