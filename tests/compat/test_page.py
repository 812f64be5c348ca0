"""docs/guides/inference-models.md: its snippets run, and it names every ignored parameter."""

import inspect
import shutil

import numpy as np
import torch
from compat.original_package import REPOSITORY
from documentation.blocks import python_blocks
from small_models import drawing

import perception_encoder
from perception_encoder.export import export_roboflow_package

NAME = "docs/guides/inference-models.md"
PAGE = (REPOSITORY / NAME).read_text(encoding="utf-8")
DROP_IN, _, UNDER = python_blocks(NAME)


def test_the_drop_ins_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nano = perception_encoder.AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    nano.save_pretrained("perception-encoder/PE-Core-B16-224")
    for seed, name in enumerate(("cat.jpg", "dog.jpg")):
        drawing(seed).save(name)
    names = {}
    exec(DROP_IN, names)
    assert torch.allclose(names["cosines"], names["embeddings"] @ names["texts"].T, atol=1e-6)
    again = nano.embed_images(names["images"])
    assert np.abs(names["embeddings"].numpy() - again).max() <= 2e-5


def test_the_folders_snippet_runs_under_the_original(under_original, tmp_path):
    export_roboflow_package("pe-nano", tmp_path / "pe-l14")
    assert under_original(UNDER, folder=tmp_path) == "torch.Size([1, 192])\n"
    shutil.rmtree(tmp_path / "pe-l14")


def test_the_page_names_every_parameter_of_the_original(original):
    from inference_models import AutoModel

    explained = inspect.signature(AutoModel.from_pretrained).parameters
    for name, _ in original["parameters"]["from_pretrained"]:
        assert f"`{name}`" in PAGE or name in explained or name == "kwargs", name
