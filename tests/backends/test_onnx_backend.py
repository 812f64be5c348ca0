"""What the ONNX backend does beyond the contract: precisions, devices, and what it refuses."""

import importlib.util
import shutil
from dataclasses import replace

import numpy as np
import pytest
from backends.backend_inputs import pixels, token_rows, unit
from small_models import CORE, FP32_ON_CPU, WITHOUT_POOLING, open_tiny

from perception_encoder import AutoModel
from perception_encoder.backends import ComputeOptions, open_backend, open_random_backend
from perception_encoder.checkpoints import locate
from perception_encoder.errors import (
    BackendUnavailableError,
    CheckpointError,
    UnsupportedOperationError,
)
from perception_encoder.export import export_pretrained

pytestmark = pytest.mark.usefixtures("exporting_once")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The tiny model in every precision, by precision."""
    folder = tmp_path_factory.mktemp("onnx")
    saved = open_tiny().save_pretrained(folder / "saved")
    for precision in ("fp32", "fp16", "int8"):
        export_pretrained(saved, folder / precision, precision=precision)
    return folder


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.9999), ("int8", 0.995)])
def test_smaller_weights_are_close_and_keep_their_name(exported, precision, cosine):
    exact, small = (
        open_backend(locate(exported / name), ComputeOptions(backend="onnx"))
        for name in ("fp32", precision)
    )
    assert small.precision == precision
    assert (
        small.fingerprint == exact.fingerprint == open_random_backend(CORE, FP32_ON_CPU).fingerprint
    )
    assert small.logit_scale == exact.logit_scale
    for method, given in [("encode_image", pixels(CORE, 8)), ("encode_text", token_rows(8))]:
        found, expected = (unit(getattr(backend, method)(given)) for backend in (small, exact))
        assert (found * expected).sum(axis=1).min() >= cosine
        assert not np.array_equal(found, expected)
    sizes = {
        name: sum(path.stat().st_size for path in (exported / name).glob("*.data"))
        for name in ("fp32", precision)
    }
    assert sizes[precision] < 0.8 * sizes["fp32"]


def test_an_export_opens_as_a_model_like_any_other(exported):
    model = AutoModel.from_pretrained(exported / "fp32")
    towers = open_tiny()
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    difference = model.embed_images([image]) - towers.embed_images([image])
    assert np.abs(difference).max() <= 2e-5
    assert np.abs(model.embed_text("cat ca") - towers.embed_text("cat ca")).max() <= 2e-5
    assert model.identity == towers.identity
    assert (model.backend.name, model.backend.device) == ("onnx", "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, r"'cuda'.*has cpu.*onnxruntime-gpu"),
        ({"device": "cpu:x"}, r"'cpu:x'"),
        ({"device": "tpu"}, r"'tpu'"),
        ({"precision": "bf16"}, r"exported in fp32.*bf16.*'auto'"),
        ({"backend": "torch"}, r"exported for backend 'onnx'.*'torch'"),
    ],
)
def test_what_it_cannot_do_is_said_when_it_is_opened(exported, options, message):
    with pytest.raises(BackendUnavailableError, match=message):
        AutoModel.from_pretrained(exported / "fp32", **options)


def test_a_damaged_graph_is_named(exported, tmp_path):
    folder = shutil.copytree(exported / "fp32", tmp_path / "damaged")
    (folder / "text.onnx").write_bytes(b"no graph")
    model = AutoModel.from_pretrained(folder)
    assert model.embed_images([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 24)
    with pytest.raises(CheckpointError, match=r"text\.onnx.*Export the model again"):
        model.embed_text("cat")
    (folder / "text.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"text\.onnx is missing"):
        AutoModel.from_pretrained(folder)


def test_weights_cannot_be_read_back(exported, tmp_path):
    with pytest.raises(CheckpointError, match="is an export for onnx"):
        AutoModel.from_pretrained(exported / "fp32").save_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="is an export for onnx"):
        export_pretrained(exported / "fp32", tmp_path / "again")


def test_a_tower_without_vectors_says_so(tmp_path):
    saved = open_tiny(WITHOUT_POOLING).save_pretrained(tmp_path / "saved")
    export_pretrained(saved, tmp_path / "onnx")
    backend = open_backend(locate(tmp_path / "onnx"), ComputeOptions())
    with pytest.raises(UnsupportedOperationError, match="features"):
        backend.encode_image(pixels(WITHOUT_POOLING, 1))
    with pytest.raises(UnsupportedOperationError, match="no text"):
        backend.encode_text(token_rows(1))


def test_graphs_of_weights_are_made_once(exported, tmp_path, monkeypatch):
    options = ComputeOptions(backend="onnx", graph_cache=tmp_path / "cache")
    first = open_backend(locate(exported / "saved"), options)
    towers = open_random_backend(CORE, FP32_ON_CPU)
    difference = unit(first.encode_text(token_rows(3))) - unit(towers.encode_text(token_rows(3)))
    assert np.abs(difference).max() <= 2e-5
    assert (first.precision, first.fingerprint) == ("fp32", towers.fingerprint)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    again = open_backend(locate(exported / "saved"), options)  # needs no torch any more
    assert np.array_equal(again.encode_image(pixels(CORE, 2)), first.encode_image(pixels(CORE, 2)))
    with pytest.raises(BackendUnavailableError, match="torch is needed once"):
        open_backend(locate(exported / "saved"), replace(options, precision="int8"))


def test_graphs_that_cannot_be_kept_are_refused(exported, tmp_path):
    (tmp_path / "file").write_text("in the way")
    options = ComputeOptions(backend="onnx", graph_cache=tmp_path / "file")
    with pytest.raises(BackendUnavailableError, match="cannot be cached"):
        open_backend(locate(exported / "saved"), options)
