"""Exporting: what is kept, what is refused, and what becomes of a folder."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from small_models import CORE, TOKENIZER, WITHOUT_TEXT, open_tiny

from perception_encoder import AutoModel
from perception_encoder.backends import ComputeOptions
from perception_encoder.backends.openvino_write import arrange_vision
from perception_encoder.backends.torch_backend import TorchBackend
from perception_encoder.checkpoints.load import random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.errors import (
    BackendUnavailableError,
    CheckpointError,
    SourceError,
    UnsupportedOperationError,
)
from perception_encoder.export import export_pretrained
from perception_encoder.model.blocks import SelfAttention

pytestmark = pytest.mark.usefixtures("exporting_once")

GALLERY = Path(str(files("perception_encoder"))) / "data/gallery"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return open_tiny().save_pretrained(tmp_path_factory.mktemp("models") / "core")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_holds_what_is_needed_and_nothing_of_this_machine(saved, tmp_path):
    drifts = export_pretrained(saved, tmp_path / "deep" / "onnx", preprocess="reference")
    folder = tmp_path / "deep" / "onnx"
    graphs = ["image.onnx", "image.onnx.data", "text.onnx", "text.onnx.data"]
    assert names(folder) == sorted([*graphs, "config.json", "tokenizer.json"])
    assert names(folder.parent) == ["onnx"]
    assert set(drifts) == {"images", "texts", "features"}
    assert all(drift.difference < 2e-5 and drift.cosine > 0.99999 for drift in drifts.values())
    assert AutoModel.from_pretrained(folder).identity.preprocess == "reference"
    record = json.loads((folder / "config.json").read_text())["graphs"]
    assert (record["backend"], record["precision"]) == ("onnx", "fp32")
    for name in ("image.onnx", "text.onnx"):
        graph = (folder / name).read_bytes()
        assert b"perception_encoder" not in graph
        assert b"site-packages" not in graph
        assert len(graph) < 60_000  # the weights lie beside it


def test_one_export_replaces_another_and_leaves_nothing_of_it(saved, tmp_path):
    export_pretrained(saved, tmp_path / "onnx", precision="int8")
    without_text = open_tiny(WITHOUT_TEXT).save_pretrained(tmp_path / "images")
    (tmp_path / "onnx" / "notes.md").write_text("mine")
    export_pretrained(without_text, tmp_path / "onnx")
    assert names(tmp_path / "onnx") == ["config.json", "image.onnx", "image.onnx.data", "notes.md"]
    opened = AutoModel.from_pretrained(tmp_path / "onnx")
    assert (opened.config, opened.backend.precision) == (WITHOUT_TEXT, "fp32")


def test_a_folder_of_something_else_is_left_alone(saved, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    for folder in (tmp_path / "letters", saved):
        before = names(folder)
        with pytest.raises(CheckpointError, match="something else than an export"):
            export_pretrained(saved, folder)
        assert names(folder) == before


def test_a_graph_that_differs_too_much_is_not_kept(tmp_path):
    model = random_model(CORE)
    model.vision.blocks[-1].mlp.down.weight *= 1e7  # beyond what float16 can hold
    save_model(model, tmp_path / "large", TOKENIZER)
    export_pretrained(tmp_path / "large", tmp_path / "onnx")
    before = {name: (tmp_path / "onnx" / name).read_bytes() for name in names(tmp_path / "onnx")}
    with pytest.raises(CheckpointError, match=r"fp16.* are too far.*Nothing was kept"):
        export_pretrained(tmp_path / "large", tmp_path / "onnx", precision="fp16")
    after = {name: (tmp_path / "onnx" / name).read_bytes() for name in names(tmp_path / "onnx")}
    assert after == before
    assert names(tmp_path) == ["large", "onnx"]


def test_a_precision_that_graphs_do_not_have_is_named(saved, tmp_path):
    with pytest.raises(BackendUnavailableError, match=r"'bf16'.*fp32, fp16, int8"):
        export_pretrained(saved, tmp_path / "onnx", precision="bf16")
    assert names(tmp_path) == []


def test_indexes_take_vectors_of_either_backend(saved, tmp_path):
    """Identity is of the weights, so an index made with one backend goes on with another."""
    export_pretrained(saved, tmp_path / "int8", precision="int8")
    options = ComputeOptions(device="cpu", precision="bf16")
    towers = open_tiny(backend=TorchBackend.with_random_weights(CORE, options))
    assert AutoModel.from_pretrained(tmp_path / "int8").identity == towers.identity


def test_a_model_whose_vocabulary_is_missing_is_exported_all_the_same(tmp_path):
    save_model(random_model(CORE), tmp_path / "mute", None)
    drifts = export_pretrained(tmp_path / "mute", tmp_path / "onnx")
    assert drifts["texts"].difference < 2e-5
    assert "tokenizer.json" not in names(tmp_path / "onnx")
    vectors = AutoModel.from_pretrained(tmp_path / "onnx").embed_images([np.zeros((5, 5, 3), "u1")])
    assert vectors.shape == (1, CORE.embed_dim)


def test_a_model_is_compared_with_its_graph_as_it_was():
    model = random_model(CORE)
    before = dict(model.named_parameters())
    changed = dict(arrange_vision(model).named_parameters())
    assert dict(model.named_parameters()) == before  # the very tensors, in the very modules
    assert type(model.vision.blocks[0].attention) is SelfAttention
    other = [name for name, parameter in changed.items() if parameter is not before.get(name)]
    assert other
    assert {name.split(".attention.")[1][0] for name in other} == {"q", "k", "v"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_export_for_openvino_opens_with_it(saved, tmp_path, precision):
    drifts = export_pretrained(
        saved,
        tmp_path / "ov",
        backend="openvino",
        precision=precision,
        calibration=GALLERY if precision == "int8" else None,
    )
    assert drifts["images"].cosine > 0.995
    graphs = ["image.bin", "image.xml", "text.bin", "text.xml"]
    assert names(tmp_path / "ov") == sorted([*graphs, "config.json", "tokenizer.json"])
    chosen = "int8" if precision == "int8" else "fp32"
    model, towers = AutoModel.from_pretrained(tmp_path / "ov", precision=chosen), open_tiny()
    assert (model.backend.name, model.backend.precision) == ("openvino", chosen)
    assert model.identity == towers.identity
    texts = ["cat", "ca cat"]
    cosines = (model.embed_text(texts) * towers.embed_text(texts)).sum(axis=1)
    assert cosines.min() > (0.99999 if precision == "fp32" else 0.995)
    with pytest.raises(UnsupportedOperationError, match="last layer"):
        model.features([np.zeros((9, 9, 3), np.uint8)], layer=0)
    other = "fp32" if precision == "int8" else "int8"
    with pytest.raises(BackendUnavailableError, match=f"exported in {precision}"):
        AutoModel.from_pretrained(tmp_path / "ov", precision=other)


def test_images_to_calibrate_with_are_checked_before_anything_is_made(saved, tmp_path, caplog):
    own = tmp_path / "own"
    own.mkdir()
    (own / "broken.webp").write_bytes(b"no image")
    for path in sorted(GALLERY.glob("*.webp"))[:15]:
        shutil.copy(path, own)
    options = {"backend": "openvino", "precision": "int8", "calibration": own}
    with pytest.raises(SourceError, match="15 images could be read"):
        export_pretrained(saved, tmp_path / "few", **options)
    assert "broken.webp" in caplog.text
    with pytest.raises(SourceError, match="no such file"):
        export_pretrained(saved, tmp_path / "few", **options | {"calibration": tmp_path / "none"})
    with pytest.raises(ValueError, match="int8 graphs of OpenVINO"):
        export_pretrained(saved, tmp_path / "onnx", precision="int8", calibration=own)
    assert names(tmp_path) == ["own"]
