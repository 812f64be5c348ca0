"""`pe export`, and what people do with the folder where there is no torch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.checkpoint_samples import CLIP
from child_processes import build_environment
from cli.command import lines, output, pe, pe_ending
from documentation.blocks import python_blocks
from safetensors.torch import save_file
from small_models import save_drawings

from perception_encoder import AutoModel
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import load_model, random_model
from perception_encoder.checkpoints.save import save_model

pytestmark = pytest.mark.usefixtures("exporting_once")

TEXTS = ["a cat", "Red Heart", "a dog left of a red car"]

# What an environment lacks that has `perception-encoder[onnx]` alone.
WITHOUT = """
import sys

HIDDEN = {"torch", "onnx", "onnxscript", "onnx_ir", "openvino", "safetensors.torch"}


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name in HIDDEN or name.partition(".")[0] in HIDDEN
        return None if hidden else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with images and the bundled model's export."""
    root = tmp_path_factory.mktemp("export")
    (root / "images").mkdir()
    save_drawings(root / "images", 5)
    (root / "without" / "sitecustomize.py").parent.mkdir()
    (root / "without" / "sitecustomize.py").write_text(WITHOUT)
    exported = pe_ending("export", "pe-nano", "nano-onnx", folder=root)
    assert exported.stdout == "nano-onnx\n"
    assert "images: lowest cosine with the model's own 1.000000" in exported.stderr
    return root


def without_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(folder / "without"), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        env=build_environment(folder, PYTHONPATH=paths),
    )


def test_vectors_without_torch_are_those_with_it(folder):
    code = (
        "import importlib.util, sys, glob, numpy as np\n"
        "from perception_encoder import AutoModel\n"
        "assert importlib.util.find_spec('torch') is None\n"
        "model = AutoModel.from_pretrained('nano-onnx')\n"
        "images = sorted(glob.glob('images/*'))\n"
        f"np.savez('vectors.npz', images=model.embed_images(images), "
        f"texts=model.embed_text({TEXTS!r}), features=model.features(images))\n"
        "assert not {'torch', 'onnx', 'onnxscript'} & set(sys.modules)\n"
    )
    output(without_torch(folder, "-c", code))
    vectors = np.load(folder / "vectors.npz")
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    images = sorted((folder / "images").iterdir())
    assert np.abs(vectors["images"] - model.embed_images(images)).max() <= 2e-5
    assert np.abs(vectors["texts"] - model.embed_text(TEXTS)).max() <= 2e-5
    exact = model.features(images)
    scale = np.linalg.norm(exact, axis=-1, keepdims=True)
    assert (np.abs(vectors["features"] - exact) / scale).max() <= 2e-5


def test_indexing_and_searching_work_without_torch_and_agree_with_it(folder):
    pe_module = ("-m", "perception_encoder.cli")
    given = ("--index", "t.lance", "--model", "nano-onnx")
    indexed = without_torch(folder, *pe_module, "index", "images", *given)
    assert indexed.returncode == 0, indexed.stderr
    assert "5 embedded" in indexed.stderr
    found = lines(without_torch(folder, *pe_module, "search", "a red heart", *given, "--json"))
    assert len(found) == 5
    torchs = lines(pe("search", "a red heart", "--index", "t.lance", "--json", folder=folder))
    assert [hit["uri"] for hit in found] == [hit["uri"] for hit in torchs]
    for hit, other in zip(found, torchs, strict=True):
        # torch may read the query in bf16; that vectors are equal is tested above, in float32.
        assert hit["score"] == pytest.approx(other["score"], abs=0.01)
    again = pe("index", "images", "--index", "t.lance", folder=folder)
    assert "5 skipped" in again.stderr


def test_exporting_and_weights_say_what_they_need(folder):
    pe_module = ("-m", "perception_encoder.cli")
    export = without_torch(folder, *pe_module, "export", "pe-nano", "again")
    assert export.returncode == 1
    assert "torch and onnxscript: pip install 'perception-encoder[export]'" in export.stderr
    embed = without_torch(folder, *pe_module, "embed", "images/drawing0.png")
    assert embed.returncode == 1
    assert "no backend is installed" in embed.stderr


def test_json_tells_the_drift(folder):
    (record,) = lines(
        pe("export", "pe-nano", "small", "--precision", "int8", "--json", folder=folder)
    )
    assert (record["folder"], record["format"], record["precision"]) == ("small", "onnx", "int8")
    assert set(record["drift"]) == {"images", "texts", "features"}  # type: ignore[call-overload]
    assert 0.995 < record["drift"]["images"]["cosine"] < 1
    config = json.loads((folder / "small" / "config.json").read_text())
    assert config["graphs"]["precision"] == "int8"


def test_the_first_snippet_of_the_document_opens_an_export(folder):
    snippet = python_blocks("docs/guides/export.md")[0]
    (folder / "b16-onnx").symlink_to("nano-onnx")
    assert "b16-onnx" in snippet
    output(without_torch(folder, "-c", snippet + "assert model.embed_text('a').shape == (1, 192)"))


def test_the_other_snippets_of_the_document_give_the_models_vectors(folder):
    """docs/guides/export.md: onnxruntime, numpy, Pillow and tokenizers, without this package."""
    snippet = "".join(python_blocks("docs/guides/export.md")[1:])
    assert snippet.count("InferenceSession") == 2
    (folder / "cat.png").write_bytes((folder / "images" / "drawing0.png").read_bytes())
    code = "import sys\nsys.modules['perception_encoder'] = None\n" + snippet
    code += "np.savez('snippet.npz', image=image, text=text)"
    cosine = float(output(without_torch(folder, "-c", code)))
    found = np.load(folder / "snippet.npz")
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    image, text = model.embed_image(folder / "cat.png"), model.embed_text("a cat")
    assert np.abs(found["image"] - image).max() <= 2e-5
    assert np.abs(found["text"] - text).max() <= 2e-5
    assert cosine == pytest.approx((image @ text.T).item(), abs=1e-4)


def test_a_snapshot_for_open_clip_may_be_merged_with_an_adapter(tmp_path):
    model = replace(
        CLIP, text=replace(CLIP.text, vocab_size=49_408, activation="quick_gelu"), id="mine"
    )
    save_model(random_model(model), tmp_path / "mine", None)
    rows, columns = random_model(model).vision.blocks[0].mlp.up.weight.shape
    (tmp_path / "lora").mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "mine"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    key = "base_model.model.vision.blocks.0.mlp.up.lora_"
    pair = {f"{key}A.weight": torch.ones(1, columns), f"{key}B.weight": torch.ones(rows, 1)}
    save_file(pair, tmp_path / "lora" / "adapter_model.safetensors")
    export = ("export", "mine", "out", "--format", "open_clip", "--adapter", "lora")
    (record,) = lines(pe(*export, "--json", folder=tmp_path))
    assert record == {"folder": "out", "format": "open_clip"}
    merged, plain = load_model(locate(tmp_path / "out")).model, random_model(model)
    difference = merged.vision.blocks[0].mlp.up.weight - plain.vision.blocks[0].mlp.up.weight
    torch.testing.assert_close(difference, torch.ones(rows, columns))
    for option in (("--precision", "int8"), ("--calibration", "."), ("--preprocess", "fast")):
        refused = pe(*export, *option, folder=tmp_path)
        assert refused.returncode == 2
        assert f"leave {option[0]} out" in " ".join(refused.stderr.split())
