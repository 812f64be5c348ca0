import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_models import AutoModel, TextImageEmbeddingModel
from inference_models.errors import ModelInputError, ModelRuntimeError
from inference_models.models.perception_encoder.perception_encoder_pytorch import (
    PerceptionEncoderTorch,
    create_preprocessor,
)
from inference_models.models.perception_encoder.vision_encoder.transforms import (
    get_image_transform,
)
from small_models import CONTEXT_LENGTH, CORE, WITHOUT_TEXT, as_bgr, drawing, open_tiny

IMAGES = [drawing(seed) for seed in range(3)]
BGR = [as_bgr(image) for image in IMAGES]
RGB_TENSORS = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in IMAGES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return open_tiny().save_pretrained(tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def expected(model):
    return model.embed_images(IMAGES)


def same(a, b) -> bool:
    return torch.allclose(a, b, rtol=0, atol=2e-5)


def test_results_are_rows_of_unit_length_on_the_cpu(model, expected):
    for vectors in (expected, model.embed_image(BGR[0]), model.embed_text(["cat", "dog", "a"])):
        assert isinstance(vectors, torch.Tensor)
        assert vectors.shape[1:] == (CORE.embed_dim,)
        assert (vectors.dtype, vectors.device.type) == (torch.float32, "cpu")
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-6)


def test_arrays_are_bgr_and_tensors_rgb_unless_said_otherwise(model, expected):
    rgb_arrays = [np.array(image) for image in IMAGES]
    bgr_tensors = [tensor.flip(0) for tensor in RGB_TENSORS]
    assert same(model.embed_images(BGR), expected)
    assert same(model.embed_images(RGB_TENSORS), expected)
    assert same(model.embed_images([BGR[0], *RGB_TENSORS[1:]]), expected)
    assert same(model.embed_images(rgb_arrays, input_color_format="rgb"), expected)
    assert same(model.embed_images(RGB_TENSORS, "rgb"), expected)
    assert same(model.embed_images(bgr_tensors, "bgr"), expected)
    assert same(model.embed_image(bgr_tensors[0], "bgr"), expected[:1])
    assert not same(model.embed_images(bgr_tensors), expected)


def test_a_batch_tensor_in_bgr_swaps_channels_not_images(model, expected):
    batch = torch.stack(RGB_TENSORS)
    assert same(model.embed_images(batch), expected)
    assert same(model.embed_images(batch.flip(1), input_color_format="bgr"), expected)
    assert same(model.embed_images(np.stack(BGR)), expected)


def test_a_single_image_counts_as_a_list_of_one(model, expected):
    assert same(model.embed_images(BGR[1]), expected[1:2])
    assert same(model.embed_images(RGB_TENSORS[1]), expected[1:2])


def test_transparent_and_gray_tensors_keep_their_meaning_in_bgr(model):
    opaque = torch.cat([RGB_TENSORS[0], torch.full((1, *RGB_TENSORS[0].shape[1:]), 255)])
    opaque = opaque.to(torch.uint8)
    bgra = opaque[[2, 1, 0, 3]]
    assert same(model.embed_image(bgra, "bgr"), model.embed_image(opaque))
    gray = RGB_TENSORS[0][:1]
    assert same(model.embed_image(gray, "bgr"), model.embed_image(gray))
    assert same(model.embed_image(gray[0], "bgr"), model.embed_image(gray))


def test_the_model_tells_what_callers_read_of_the_original(model):
    assert isinstance(model, TextImageEmbeddingModel)
    assert type(model) is PerceptionEncoderTorch
    assert model.device == torch.device("cpu")
    assert (model.model.image_size, model.model.context_length) == (32, CONTEXT_LENGTH)
    rows = model.tokenizer(["cat", "a cat"])
    assert (rows.shape, rows.dtype) == ((2, CONTEXT_LENGTH), torch.int64)
    assert rows[0].argmax() < rows[1].argmax()
    assert not hasattr(model, "resolved_model")


def test_floats_at_the_models_own_size_are_left_as_they_were(model):
    """The original normalizes such images in place: a second call sees other pixels."""
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    array = batch[0].permute(1, 2, 0).numpy().copy()
    for images, color_format in ((batch, None), (batch[0], "bgr"), (array, "rgb"), (array, None)):
        before = images.copy() if images is array else images.clone()
        first = model.embed_images(images, color_format)
        assert (images == before).all()
        assert same(model.embed_images(images, color_format), first)


def test_a_list_may_mix_bytes_and_floats(model, expected):
    """The original scales all or none of a list."""
    floats = RGB_TENSORS[1].float() / 255
    assert same(model.embed_images([RGB_TENSORS[0], floats, BGR[2] / 255]), expected)
    assert same(model.embed_images([BGR[0], floats.double(), RGB_TENSORS[2]]), expected)


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from("aAtTfF"), st.integers(0, 2)), min_size=1, max_size=5),
    color_format=st.sampled_from([None, "bgr", "rgb"]),
)
def test_any_mix_gives_each_image_its_own_vector(model, expected, kinds, color_format):
    """Arrays and tensors, uint8 and float, contiguous and not, in either order of colors."""

    def in_memory(kind, seed):
        rgb = np.array(IMAGES[seed])
        is_array = kind in "aA"
        bgr = color_format == "bgr" or (color_format is None and is_array)
        pixels = rgb[:, :, ::-1] if bgr else rgb
        if kind == "A" or not is_array:
            pixels = np.ascontiguousarray(pixels)
        if is_array:
            return pixels
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        return {
            "t": tensor,
            "T": tensor.contiguous(),
            "f": tensor / 255,
            "F": tensor.double() / 255,
        }[kind]

    images = [in_memory(kind, seed) for kind, seed in kinds]
    rows = expected[[seed for _, seed in kinds]]
    assert same(model.embed_images(images, input_color_format=color_format), rows)


@pytest.mark.parametrize("x_type", ["image", "text"])
@pytest.mark.parametrize("y_type", ["image", "text"])
def test_compare_embeddings_gives_cosines_of_each_with_each(model, x_type, y_type):
    sides = {"image": BGR, "text": ["cat", "a"]}
    rows = {"image": model.embed_images(BGR), "text": model.embed_text(["cat", "a"])}
    found = model.compare_embeddings(sides[x_type], sides[y_type], x_type, y_type)
    assert found.dtype == torch.float32
    assert found.shape == (len(sides[x_type]), len(sides[y_type]))
    assert torch.allclose(found, rows[x_type] @ rows[y_type].T, atol=1e-6)


def test_compare_embeddings_hands_its_keywords_on_and_takes_single_things(model, expected):
    found = model.compare_embeddings(RGB_TENSORS[0].flip(0), "cat", input_color_format="bgr")
    assert found.shape == (1, 1)
    assert torch.allclose(found, expected[:1] @ model.embed_text(texts="cat").T, atol=1e-6)


@pytest.mark.parametrize("size", [224, 48])
def test_the_preprocessor_agrees_with_the_transform_of_one_image(size):
    prepared = create_preprocessor(size)(BGR)
    assert (prepared.shape, prepared.dtype) == ((3, 3, size, size), torch.float32)
    transform = get_image_transform(size)
    assert torch.equal(prepared, torch.stack([transform(image) for image in IMAGES]))
    assert torch.equal(prepared, create_preprocessor(size)(RGB_TENSORS))
    assert -1 <= prepared.min() < prepared.max() <= 1
    assert not torch.equal(prepared[0], get_image_transform(size, center_crop=True)(IMAGES[0]))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([BGR[0], b"nothing"], "image 1"),
        ([*BGR[:2], None], "image 2"),
        ([np.zeros((8, 8, 3), np.int64)], "int64"),
        ([np.full((8, 8, 3), 128.0)], "float pixels must lie in 0..1"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"\(N, C, H, W\)"),
        (7, "expected a list of images"),
    ],
)
def test_images_that_cannot_be_used_are_named(model, images, words):
    with pytest.raises(ModelInputError, match=words):
        model.embed_images(images)


def test_other_wrong_arguments_are_named(model):
    with pytest.raises(ModelInputError, match="'bgr' or 'rgb', got 'hsv'"):
        model.embed_images(BGR, input_color_format="hsv")
    with pytest.raises(ModelInputError, match=r"texts\[1\] is int"):
        model.embed_text(["cat", 1])
    assert model.embed_images([]).shape == model.embed_text([]).shape == (0, CORE.embed_dim)


def test_a_model_that_reads_no_text_says_so():
    images_only = PerceptionEncoderTorch(open_tiny(WITHOUT_TEXT, tokenizer=None))
    assert images_only.model.context_length is None
    assert images_only.embed_images(BGR).shape == (3, WITHOUT_TEXT.embed_dim)
    with pytest.raises(ModelRuntimeError, match="reads no text"):
        images_only.embed_text("cat")
