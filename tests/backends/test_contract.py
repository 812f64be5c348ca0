"""What every backend must do, on models whose numbers are tiny."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from backends.backend_inputs import pixels, token_rows, unit
from small_models import CLIP, CORE, FP32_ON_CPU, WITHOUT_POOLING, WITHOUT_TEXT, open_tiny

from perception_encoder.backends import ComputeOptions, open_backend, open_random_backend
from perception_encoder.checkpoints import locate
from perception_encoder.errors import BackendUnavailableError, UnsupportedOperationError
from perception_encoder.export import export_pretrained

pytestmark = pytest.mark.usefixtures("exporting_once")

BACKENDS = ["torch", "openvino", "onnx", *(["torch on cuda"] if torch.cuda.is_available() else [])]
LAST_LAYER_ONLY = ["onnx"]
NATIVE_SIZE_ONLY = ["onnx"]
CONFIGS = [CORE, CLIP, WITHOUT_TEXT, WITHOUT_POOLING]
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def saved(backend, tmp_path_factory):
    """Every configuration, in a folder that the backend opens."""
    folder = tmp_path_factory.mktemp("models")
    paths = {}
    for config in CONFIGS:
        path = open_tiny(config).save_pretrained(folder / config.id.replace("/", "-"))
        paths[config.id] = path
        if backend == "onnx":
            paths[config.id] = path.with_name(f"{path.name}-onnx")
            export_pretrained(path, paths[config.id])
    return paths


@pytest.fixture(scope="module")
def opened(backend, saved):
    """Every configuration, opened by the backend."""
    return {config.id: open_with(backend, saved[config.id]) for config in CONFIGS}


def open_with(backend, folder):
    name, _, device = backend.partition(" on ")
    options = ComputeOptions(backend=name, device=device or "cpu", precision="fp32")
    return open_backend(locate(folder), options)


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("config", [CORE, CLIP, WITHOUT_TEXT], ids=lambda c: c.id)
def test_images_become_float32_rows(opened, config, batch):
    vectors = opened[config.id].encode_image(pixels(config, batch))
    assert isinstance(vectors, np.ndarray)
    assert vectors.shape == (batch, config.embed_dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("length", [2, CORE.text.context_length])
@pytest.mark.parametrize("config", [CORE, CLIP], ids=lambda c: c.id)
def test_token_rows_become_float32_rows(opened, config, length, batch):
    vectors = opened[config.id].encode_text(token_rows(batch, length))
    assert vectors.shape == (batch, config.embed_dim)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.id)
def test_features_are_rows_of_squares(opened, config):
    backend, vision = opened[config.id], config.vision
    last = backend.features(pixels(config, 2))
    assert last.shape == (2, vision.grid_size**2, vision.width)
    assert last.dtype == np.float32
    assert np.array_equal(last, backend.features(pixels(config, 2), layer=vision.depth - 1))
    if backend.name in LAST_LAYER_ONLY:
        with pytest.raises(UnsupportedOperationError, match="backend='torch'"):
            backend.features(pixels(config, 2), layer=0)
    else:
        first = backend.features(pixels(config, 2), layer=0)
        assert not np.allclose(last, first, atol=0.01)
    with pytest.raises(ValueError, match="layer"):
        backend.features(pixels(config, 1), layer=vision.depth)


@pytest.mark.parametrize("grid", [(1, 1), (2, 9), (7, 4)])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.id)
def test_features_of_any_size_are_those_of_the_torch_towers(opened, config, grid):
    backend, patch = opened[config.id], config.vision.patch_size
    shape = (3, grid[0] * patch, grid[1] * patch, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if backend.name in NATIVE_SIZE_ONLY:
        with pytest.raises(UnsupportedOperationError, match=r"'onnx'.*one size.*backend='torch'"):
            backend.features(images)
        return
    towers = open_random_backend(config, FP32_ON_CPU)
    for layer in (-1, 0):
        found, expected = (one.features(images, layer=layer) for one in (backend, towers))
        assert found.shape == (3, grid[0] * grid[1], config.vision.width)
        assert np.abs(unit(found) - unit(expected)).max() <= TOLERANCE
        assert backend.features(images[:0], layer=layer).shape == (0, *found.shape[1:])
        alone = backend.features(images[1:2], layer=layer)
        assert np.abs(unit(alone[0]) - unit(found[1])).max() <= TOLERANCE
    with pytest.raises(ValueError, match="multiples"):
        backend.features(images[:, :-1])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.id)
def test_vectors_are_those_of_the_torch_towers(opened, config):
    backend, towers = opened[config.id], open_random_backend(config, FP32_ON_CPU)
    images = pixels(config, 5)
    pairs = [(backend.features(images), towers.features(images))]
    if config.embed_dim is not None:
        pairs.append((backend.encode_image(images), towers.encode_image(images)))
        pairs.append((backend.pool_inputs(images), towers.pool_inputs(images)))
    if config.text is not None:
        pairs.append((backend.encode_text(token_rows(5)), towers.encode_text(token_rows(5))))
    for found, expected in pairs:
        assert np.abs(unit(found) - unit(expected)).max() <= TOLERANCE


@pytest.mark.parametrize("config", [CORE, CLIP], ids=lambda c: c.id)
def test_a_row_does_not_depend_on_the_batch(opened, config):
    backend, images, texts = opened[config.id], pixels(config, 7), token_rows(7)
    together = unit(backend.encode_image(images)), unit(backend.encode_text(texts))
    for row in range(7):
        alone = backend.encode_image(images[row : row + 1]), backend.encode_text(texts[[row]])
        assert np.abs(unit(alone[0])[0] - together[0][row]).max() <= TOLERANCE
        assert np.abs(unit(alone[1])[0] - together[1][row]).max() <= TOLERANCE


def test_padding_after_the_end_token_changes_nothing(opened):
    short = token_rows(3, 5)
    padded = np.concatenate([short, np.zeros((3, 6), np.int64)], axis=1)
    backend = opened[CORE.id]
    difference = unit(backend.encode_text(short)) - unit(backend.encode_text(padded))
    assert np.abs(difference).max() <= TOLERANCE


def test_inputs_are_only_read(opened):
    images, texts = pixels(CORE, 2), token_rows(2)
    before = images.copy(), texts.copy()
    opened[CORE.id].encode_image(images)
    opened[CORE.id].features(images)
    opened[CORE.id].encode_text(texts)
    assert np.array_equal(images, before[0])
    assert np.array_equal(texts, before[1])


def test_threads_get_what_one_gets_bit_for_bit(opened):
    backend = opened[CORE.id]
    jobs = [(pixels(CORE, 3, seed), token_rows(seed + 1)) for seed in range(8)] * 4
    expected = [(backend.encode_image(a), backend.encode_text(b)) for a, b in jobs[:8]]
    with ThreadPoolExecutor(8) as pool:
        work = pool.map(
            lambda job: (backend.encode_image(job[0]), backend.encode_text(job[1])), jobs
        )
        for number, (images, texts) in enumerate(work):
            assert np.array_equal(images, expected[number % 8][0])
            assert np.array_equal(texts, expected[number % 8][1])


def test_it_says_what_it_is(opened, backend):
    model = opened[CORE.id]
    name, _, device = backend.partition(" on ")
    assert (model.name, model.device, model.precision) == (name, device or "cpu", "fp32")
    assert model.fingerprint == open_random_backend(CORE, FP32_ON_CPU).fingerprint
    assert model.fingerprint != opened[CLIP.id].fingerprint
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert opened[WITHOUT_TEXT.id].logit_scale == 1.0


def test_a_closed_model_says_so_and_may_be_closed_again(backend, saved):
    model = open_with(backend, saved[CORE.id])
    model.close()
    model.close()
    with pytest.raises(BackendUnavailableError, match="closed"):
        model.encode_image(pixels(CORE, 1))
