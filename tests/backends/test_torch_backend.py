"""What every engine must do, on models whose numbers are tiny; and what torch alone does."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import CLIP, CORE, FP32_ON_CPU, WITHOUT_POOLING, WITHOUT_TEXT, open_tiny

from perception_encoder.backends import ComputeOptions, open_backend, open_random_backend
from perception_encoder.backends.torch_backend import choose_device, choose_precision
from perception_encoder.checkpoints import locate
from perception_encoder.errors import BackendUnavailableError

BACKENDS = ["torch"]
CONFIGS = [CORE, CLIP, WITHOUT_TEXT, WITHOUT_POOLING]
TOLERANCE = 2e-5
END = CORE.text.vocab_size - 1


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def opened(engine, tmp_path_factory):
    """Every configuration, saved to a folder and opened by the engine."""
    folder = tmp_path_factory.mktemp("models")
    backends = {}
    for config in CONFIGS:
        saved = open_tiny(config).save_pretrained(folder / config.id.replace("/", "-"))
        options = ComputeOptions(backend=engine, device="cpu", precision="fp32")
        backends[config.id] = open_backend(locate(saved), options)
    return backends


def pixels(config, batch, seed=0):
    side = config.vision.image_size
    return np.random.default_rng(seed).integers(0, 256, (batch, side, side, 3), np.uint8)


def token_rows(batch, length=8):
    rows = np.random.default_rng(batch).integers(0, END - 1, (batch, length))
    rows[:, -1] = END
    return rows


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# -- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("config", [CORE, CLIP, WITHOUT_TEXT], ids=lambda c: c.id)
def test_pictures_become_float32_rows(opened, config, batch):
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
    assert not np.allclose(last, backend.features(pixels(config, 2), layer=0), atol=0.01)
    with pytest.raises(ValueError, match="layer"):
        backend.features(pixels(config, 1), layer=vision.depth)


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


def test_it_says_what_it_is(opened, engine):
    backend = opened[CORE.id]
    assert (backend.name, backend.device, backend.precision) == (engine, "cpu", "fp32")
    assert backend.fingerprint == open_random_backend(CORE, FP32_ON_CPU).fingerprint
    assert backend.fingerprint != opened[CLIP.id].fingerprint
    assert backend.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert opened[WITHOUT_TEXT.id].logit_scale == 1.0


def test_a_closed_model_says_so_and_may_be_closed_again():
    backend = open_random_backend(CORE, FP32_ON_CPU)
    backend.close()
    backend.close()
    with pytest.raises(BackendUnavailableError, match="closed"):
        backend.encode_image(pixels(CORE, 1))


# -- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_is_close_and_keeps_the_weights_name(precision):
    exact = open_random_backend(CORE, FP32_ON_CPU)
    options = ComputeOptions(device="cpu", precision=precision)
    rounded = open_random_backend(CORE, options)
    assert rounded.precision == precision
    assert rounded.fingerprint == exact.fingerprint
    assert rounded.logit_scale == exact.logit_scale
    vectors = [unit(backend.encode_image(pixels(CORE, 4))) for backend in (exact, rounded)]
    assert vectors[1].dtype == np.float32
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.999
    assert not np.array_equal(*vectors)


def test_auto_chooses_what_is_here():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    assert choose_precision("fp16", torch.device("cpu")) == "fp16"


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", "", "mps:0"])
def test_a_device_that_is_not_here_is_named(device):
    if device == "mps:0" and torch.backends.mps.is_available():
        pytest.skip("this machine has that device")
    with pytest.raises(BackendUnavailableError, match=f"device {device!r}.*'cpu'"):
        choose_device(device)


def test_an_unknown_precision_or_engine_is_named():
    with pytest.raises(BackendUnavailableError, match=r"'int8'.*fp32, bf16, fp16"):
        choose_precision("int8", torch.device("cpu"))
    options = ComputeOptions(backend="openvino")
    with pytest.raises(BackendUnavailableError, match=r"'openvino'.*backend='torch'"):
        open_random_backend(CORE, options)


def test_without_torch_it_says_what_to_install(monkeypatch):
    import importlib.util

    without_torch = SimpleNamespace(find_spec=lambda _: None)
    monkeypatch.setattr("perception_encoder.backends.select.importlib.util", without_torch)
    with pytest.raises(BackendUnavailableError, match=r"perception-encoder\[cpu\]"):
        open_random_backend(CORE, FP32_ON_CPU)
    assert importlib.util is without_torch
