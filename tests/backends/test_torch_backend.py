"""The torch backend beyond the contract: devices, precisions, and its messages about them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backends.backend_inputs import pixels, token_rows, unit
from small_models import CORE, FP32_ON_CPU

from perception_encoder.backends import ComputeOptions, open_random_backend
from perception_encoder.backends.torch_devices import choose_device, choose_precision
from perception_encoder.errors import BackendUnavailableError


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_is_close_and_keeps_the_weights_name(precision):
    exact = open_random_backend(CORE, FP32_ON_CPU)
    options = ComputeOptions(device="cpu", backend="torch", precision=precision)
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


def test_an_unknown_precision_or_backend_is_named():
    with pytest.raises(BackendUnavailableError, match=r"'int8'.*fp32, bf16, fp16"):
        choose_precision("int8", torch.device("cpu"))
    options = ComputeOptions(backend="onnx")
    with pytest.raises(BackendUnavailableError, match=r"'onnx'.*backend='torch'"):
        open_random_backend(CORE, options)


def test_without_torch_it_says_what_to_install(monkeypatch):
    import importlib.util

    without_torch = SimpleNamespace(find_spec=lambda _: None)
    monkeypatch.setattr("perception_encoder.backends.select.importlib.util", without_torch)
    with pytest.raises(BackendUnavailableError, match=r"perception-encoder\[cpu\]"):
        open_random_backend(CORE, FP32_ON_CPU)
    assert importlib.util is without_torch


@pytest.mark.parametrize(("fits", "batch"), [(3, 16), (1, 5), (100, 7)])
def test_where_a_card_has_too_little_memory_it_takes_smaller_steps(fits, batch, caplog):
    backend = open_random_backend(CORE, FP32_ON_CPU)
    images = pixels(CORE, batch)
    expected = backend.encode_image(images)
    graph = backend._open_graphs.image  # type: ignore[attr-defined]

    def short_of_memory(part):
        if len(part) > fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return graph(part)

    backend._open_graphs = backend._open_graphs._replace(image=short_of_memory)  # type: ignore[attr-defined]
    with caplog.at_level("WARNING", logger="perception_encoder"):
        found = backend.encode_image(images)
    assert np.abs(unit(found) - unit(expected)).max() < 2e-5
    assert bool(caplog.records) == (fits < batch)
    caplog.clear()
    backend.encode_image(images)  # it has learned what fits
    assert not caplog.records


@pytest.mark.parametrize(
    ("batch", "sizes"), [(1, [1]), (8, [8]), (9, [5, 4]), (17, [6, 6, 5]), (16, [8, 8])]
)
def test_the_steps_of_a_large_batch_are_alike(batch, sizes):
    backend = open_random_backend(CORE, FP32_ON_CPU)
    backend._step = 8  # type: ignore[attr-defined]
    expected = [backend.encode_image(pixels(CORE, batch)[[row]])[0] for row in range(batch)]
    graph, given = backend._open_graphs.image, []  # type: ignore[attr-defined]
    noted = backend._open_graphs._replace(image=lambda part: given.append(len(part)) or graph(part))  # type: ignore[attr-defined]
    backend._open_graphs = noted  # type: ignore[attr-defined]
    assert np.abs(backend.encode_image(pixels(CORE, batch)) - np.stack(expected)).max() < 2e-4
    assert given == sizes


@pytest.mark.parametrize("batch", [0, 1, 4])
def test_where_not_even_one_image_fits_it_says_so(batch):
    backend = open_random_backend(CORE, FP32_ON_CPU)

    def short_of_memory(_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    backend._open_graphs = backend._open_graphs._replace(image=short_of_memory)  # type: ignore[attr-defined]
    with pytest.raises(BackendUnavailableError, match="too little free memory for one image"):
        backend.encode_image(pixels(CORE, batch))


def test_towers_are_never_given_a_batch_of_nothing():
    """Flash attention on a GPU refuses it, before torch 2.10."""
    backend = open_random_backend(CORE, FP32_ON_CPU)
    given = []

    def noted(tower):
        return lambda batch, **options: given.append(len(batch)) or tower(batch, **options)

    backend._open_graphs = type(backend._open_graphs)(*map(noted, backend._open_graphs))  # type: ignore[attr-defined]
    vision = CORE.vision
    assert backend.encode_image(pixels(CORE, 0)).shape == (0, CORE.embed_dim)
    assert backend.encode_text(token_rows(0, 5)).shape == (0, CORE.embed_dim)
    assert backend.features(pixels(CORE, 0)).shape == (0, vision.grid_size**2, vision.width)
    assert given == [1, 1, 1]
