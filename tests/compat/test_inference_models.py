import numpy as np
import pytest
import torch
from inference_models import AutoModel, TextImageEmbeddingModel
from small_models import CORE, as_bgr, drawing, open_tiny

from perception_encoder.errors import ImageError, UnknownModelError

PICTURES = [drawing(seed) for seed in range(3)]
BGR = [as_bgr(picture) for picture in PICTURES]
RGB_TENSORS = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in PICTURES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return open_tiny().save_pretrained(tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def expected(model):
    return model.embed_images(PICTURES)


def same(a, b) -> bool:
    return torch.allclose(a, b, rtol=0, atol=2e-5)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_everything_the_original_takes_is_accepted(folder, device):
    model = AutoModel.from_pretrained(
        str(folder),
        "roboflow",
        "a key",
        model_package_id="a package",
        backend=["torch", "onnx"],
        batch_size=(1, 8),
        quantization="fp16",
        onnx_execution_providers=["CPUExecutionProvider"],
        device=device,
        verbose=True,
        allow_untrusted_packages=True,
        weights_provider_extra_headers={"a": "b"},
        allow_vllm_proxy=False,
        countinference=False,
    )
    assert isinstance(model, TextImageEmbeddingModel)
    assert model.embed_text("cat", a_keyword_of_the_servers=1).shape == (1, CORE.embed_dim)


def test_the_device_counts(folder):
    with pytest.raises(Exception, match="device 'cuda:99' is not available"):
        AutoModel.from_pretrained(folder, device="cuda:99")
    with pytest.raises(Exception, match="device 'meta' is not available"):
        AutoModel.from_pretrained(folder, device=torch.device("meta"))


def test_an_unknown_id_names_the_known_ones():
    with pytest.raises(UnknownModelError, match="PE-Core-B16-224"):
        AutoModel.from_pretrained("perception-encoder/PE-Core-B16-225")


def test_results_are_rows_of_unit_length_on_the_cpu(model, expected):
    for vectors in (expected, model.embed_image(BGR[0]), model.embed_text(["cat", "dog", "a"])):
        assert isinstance(vectors, torch.Tensor)
        assert vectors.shape[1:] == (CORE.embed_dim,)
        assert (vectors.dtype, vectors.device.type) == (torch.float32, "cpu")
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-6)


def test_arrays_are_bgr_and_tensors_rgb_unless_said_otherwise(model, expected):
    rgb_arrays = [np.array(picture) for picture in PICTURES]
    bgr_tensors = [tensor.flip(0) for tensor in RGB_TENSORS]
    assert same(model.embed_images(BGR), expected)
    assert same(model.embed_images(RGB_TENSORS), expected)
    assert same(model.embed_images([BGR[0], *RGB_TENSORS[1:]]), expected)
    assert same(model.embed_images(rgb_arrays, input_color_format="rgb"), expected)
    assert same(model.embed_images(RGB_TENSORS, "rgb"), expected)
    assert same(model.embed_images(bgr_tensors, "bgr"), expected)
    assert same(model.embed_image(bgr_tensors[0], "bgr"), expected[:1])
    assert not same(model.embed_images(bgr_tensors), expected)


def test_a_batch_tensor_in_bgr_swaps_channels_not_pictures(model, expected):
    batch = torch.stack(RGB_TENSORS)
    assert same(model.embed_images(batch), expected)
    assert same(model.embed_images(batch.flip(1), input_color_format="bgr"), expected)
    assert same(model.embed_images(np.stack(BGR)), expected)


def test_a_single_picture_counts_as_a_list_of_one(model, expected):
    assert same(model.embed_images(BGR[1]), expected[1:2])
    assert same(model.embed_images(RGB_TENSORS[1]), expected[1:2])


def test_transparent_and_grey_tensors_keep_their_meaning_in_bgr(model):
    opaque = torch.cat([RGB_TENSORS[0], torch.full((1, *RGB_TENSORS[0].shape[1:]), 255)])
    opaque = opaque.to(torch.uint8)
    bgra = opaque[[2, 1, 0, 3]]
    assert same(model.embed_image(bgra, "bgr"), model.embed_image(opaque))
    grey = RGB_TENSORS[0][:1]
    assert same(model.embed_image(grey, "bgr"), model.embed_image(grey))
    assert same(model.embed_image(grey[0], "bgr"), model.embed_image(grey))


def test_what_cannot_be_used_is_named(model):
    with pytest.raises(ImageError, match="image 1"):
        model.embed_images([BGR[0], b"nothing"])
    with pytest.raises(TypeError, match="image 2"):
        model.embed_images([*BGR[:2], None])
    assert model.embed_images([]).shape == (0, CORE.embed_dim)
