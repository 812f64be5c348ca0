"""Snapshots for open_clip: its names, shapes and configs, and what our own reader makes of them.

`tests/golden` has the names and shapes of open_clip 3.3's own models.
"""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import formula
import numpy as np
import pytest
from checkpoints.checkpoint_samples import CLIP, CORE, LANG

from perception_encoder import AutoModel
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import empty_model, load_model, random_model
from perception_encoder.checkpoints.open_clip_snapshot import save_open_clip, spell_for_open_clip
from perception_encoder.checkpoints.save import save_model
from perception_encoder.errors import CheckpointError
from perception_encoder.registry import ImageConfig, ModelConfig, find

# open_clip has CLIP's vocabulary alone.
SMALL = replace(CLIP, text=replace(CLIP.text, vocab_size=49_408, activation="quick_gelu"))
PUBLISHED = {
    "PE-Core-T16-384": "PE-Core-T-16-384",
    "PE-Core-S16-384": "PE-Core-S-16-384",
    "PE-Core-B16-224": "PE-Core-B-16",
    "PE-Core-L14-336": "PE-Core-L-14-336",
    "PE-Core-G14-448": "PE-Core-bigG-14-448",
    "clip/ViT-B-32": "ViT-B-32-quickgelu",
    "clip/ViT-L-14-336": "ViT-L-14-336-quickgelu",
}
GOLDENS = [
    *("PE-Core-T16-384", "PE-Core-S16-384", "PE-Core-B16-224", "PE-Core-L14-336"),
    *("CLIP-ViT-B-32", "CLIP-ViT-B-16", "CLIP-ViT-L-14"),
]


@pytest.mark.parametrize("name", GOLDENS)
def test_names_and_shapes_are_those_of_open_clips_own_model(name):
    config = find(name.replace("CLIP-", "clip/")).config
    found = {key: tuple(t.shape) for key, t in spell_for_open_clip(empty_model(config)).items()}
    assert found == formula.load_golden(name).keys["openclip"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_config_says_what_open_clips_own_does(name, tmp_path, monkeypatch):
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    published = Path(spec.origin).parent / "model_configs" / f"{PUBLISHED[name]}.json"
    expected = json.loads(published.read_text())
    module = "perception_encoder.checkpoints.open_clip_snapshot"
    monkeypatch.setattr(f"{module}.write_tensors", lambda _, path: path.touch())
    save_open_clip(empty_model(find(name).config), tmp_path / "out", None)
    written = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
    for part in ("vision_cfg", "text_cfg"):
        assert written[part].items() >= expected[part].items()
    assert written["embed_dim"] == expected["embed_dim"]
    assert written["custom_text"] == expected.get("custom_text", False)
    assert written["quick_gelu"] == expected.get("quick_gelu", False)


@pytest.mark.parametrize(
    "image",
    [
        ImageConfig(),
        ImageConfig(resize="center_crop", interpolation="bicubic"),
        ImageConfig(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    ],
)
def test_a_snapshot_opens_here_as_the_model_that_was_saved(image, tmp_path):
    config = replace(SMALL, image=image)
    save_model(random_model(config), tmp_path / "mine", None, preprocess="standard")
    options = {"backend": "torch", "precision": "fp32", "device": "cpu"}
    model = AutoModel.from_pretrained(tmp_path / "mine", **options)
    model.save_pretrained(tmp_path / "theirs", format="open_clip")
    names = {path.name for path in (tmp_path / "theirs").iterdir()}
    assert names == {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"}
    found = locate(tmp_path / "theirs")
    assert found.config.digest() == config.digest()
    loaded = load_model(found)
    for name, parameter in random_model(config).named_parameters():
        assert parameter.equal(loaded.model.get_parameter(name)), name
    opened = AutoModel.from_pretrained(tmp_path / "theirs", **options)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)
    for embed in (lambda m: m.embed_images(list(pixels)), lambda m: m.embed_text(["a cat", "b"])):
        np.testing.assert_array_equal(embed(opened), embed(model))
    model.save_pretrained(tmp_path / "theirs", format="open_clip")
    with pytest.raises(ValueError, match="format='onnx'; use one of perception-encoder, open_clip"):
        model.save_pretrained(tmp_path / "other", format="onnx")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(find("pe-nano").config, id="pe-nano"),
        pytest.param(CORE, id="another size"),
        pytest.param(LANG, id="without text"),
        pytest.param(find("PE-Spatial-S16-512").config, id="PE-Spatial"),
        pytest.param(CLIP, id="another vocabulary"),
        pytest.param(replace(SMALL, text=replace(SMALL.text, activation="gelu")), id="activation"),
    ],
)
def test_a_model_that_open_clip_cannot_build_is_refused(config: ModelConfig, tmp_path):
    with pytest.raises(CheckpointError, match="open_clip has no such model"):
        save_open_clip(empty_model(config), tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_things_is_never_touched(tmp_path):
    save_model(random_model(LANG), tmp_path / "mine", None)
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(CheckpointError, match="Choose another folder"):
        save_open_clip(random_model(SMALL), tmp_path / "mine", None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
