"""What configurations of other programs say is used, or refused by name: never passed over."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.checkpoint_samples import LANG, meta, native, timm
from checkpoints.test_locate import tiny_open_clip
from config_samples import OPEN_CLIP_CLIP, OPEN_CLIP_PE, timm_config
from safetensors.torch import save_file

from perception_encoder import AutoModel
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.checkpoints.tensors import weights_fingerprint
from perception_encoder.errors import CheckpointError
from perception_encoder.model.dual_encoder import Normalize
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.preprocess.vocabulary import build
from perception_encoder.registry import MODELS, ImageConfig, ModelConfig, find

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
# open_clip 3.3 model_configs: name, width, heads and layers of the text tower, context, embed_dim.
PUBLISHED_PE = {
    "PE-Core-T16-384": ("vit_pe_core_tiny_patch16_384", 512, 8, 12, 32, 512),
    "PE-Core-S16-384": ("vit_pe_core_small_patch16_384", 512, 8, 12, 32, 512),
    "PE-Core-B16-224": ("vit_pe_core_base_patch16_224", 1024, 16, 24, 32, 1024),
    "PE-Core-L14-336": ("vit_pe_core_large_patch14_336", 1024, 16, 24, 32, 1024),
    "PE-Core-G14-448": ("vit_pe_core_gigantic_patch14_448", 1280, 20, 24, 72, 1280),
}


def changed(config: dict, path: str, value: object) -> dict:
    config = copy.deepcopy(config)
    *parents, field = path.split(".")
    part = config
    for name in parents:
        part = part[name]
    part[field] = value
    return config


def snapshot(folder: Path, config: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "open_clip_model.safetensors").touch()
    return folder


# -- open_clip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED_PE)
def test_what_open_clip_publishes_of_pe_is_the_registered_model(name, tmp_path):
    trunk, width, heads, layers, context, embed_dim = PUBLISHED_PE[name]
    config = copy.deepcopy(OPEN_CLIP_PE)
    config["model_cfg"]["embed_dim"] = embed_dim
    size = find(name).config.vision.image_size
    config["model_cfg"]["vision_cfg"].update(timm_model_name=trunk, image_size=size)
    config["model_cfg"]["text_cfg"].update(
        width=width, heads=heads, layers=layers, context_length=context
    )
    assert locate(snapshot(tmp_path, config)).config == find(name).config


@pytest.mark.parametrize("name", ["clip/ViT-B-32", "clip/ViT-B-16", "clip/ViT-L-14"])
def test_what_open_clip_publishes_of_openai_is_the_registered_model(name, tmp_path):
    model = find(name).config
    folder = tmp_path / find(name).sources[0].repo.partition("/")[2]
    config = {
        "model_cfg": {
            "embed_dim": model.embed_dim,
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": 224,
                "layers": model.vision.depth,
                "width": model.vision.width,
                "patch_size": model.vision.patch_size,
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": model.text.width,
                "heads": model.text.num_heads,
                "layers": 12,
            },
        },
        "preprocess_cfg": {
            "mean": list(OPENAI_MEAN),
            "std": list(OPENAI_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    assert locate(snapshot(folder, config)).config.digest() == model.digest()
    # LAION's weights have the same shapes and the exact GELU, whatever their folder is called.
    del config["model_cfg"]["quick_gelu"]  # type: ignore[attr-defined]
    found = locate(snapshot(tmp_path / "ViT-B-32", config)).config
    assert (found.vision.activation, found.text.activation) == ("gelu", "gelu")


@pytest.mark.parametrize("base", [OPEN_CLIP_PE, OPEN_CLIP_CLIP], ids=["pe", "clip"])
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mean", [0.48145466, 0.4578275, 0.40821073], {"mean": OPENAI_MEAN}),
        ("mean", 0.4, {"mean": (0.4, 0.4, 0.4)}),
        ("mean", None, {"mean": OPENAI_MEAN}),
        ("mean", 0, {"mean": OPENAI_MEAN}),
        ("mean", [0, 0, 0], {"mean": (0.0, 0.0, 0.0)}),
        ("std", 0.0, {"std": OPENAI_STD}),
        ("std", [], {"std": OPENAI_STD}),
        ("interpolation", "", {"interpolation": "bicubic"}),
        ("resize_mode", "", {"resize": "center_crop"}),
        ("std", [0.2, 0.3, 0.4], {"std": (0.2, 0.3, 0.4)}),
        ("interpolation", "bicubic", {"interpolation": "bicubic"}),
        ("interpolation", "bilinear", {"interpolation": "bilinear"}),
        ("interpolation", None, {"interpolation": "bicubic"}),
        ("resize_mode", "shortest", {"resize": "center_crop"}),
        ("resize_mode", "squash", {"resize": "squash"}),
        ("resize_mode", None, {"resize": "center_crop"}),
    ],
)
def test_preprocessing_is_what_the_snapshot_says(base, field, value, expected, tmp_path):
    config = changed(base, f"preprocess_cfg.{field}", value)
    image = locate(snapshot(tmp_path, config)).config.image
    assert {name: getattr(image, name) for name in expected} == expected


def test_a_snapshot_that_says_nothing_of_preprocessing_has_open_clips_own(tmp_path):
    config = copy.deepcopy(OPEN_CLIP_PE)
    del config["preprocess_cfg"]
    image = locate(snapshot(tmp_path, config)).config.image
    assert image == ImageConfig(
        resize="center_crop", interpolation="bicubic", mean=OPENAI_MEAN, std=OPENAI_STD
    )


@pytest.mark.parametrize("base", [OPEN_CLIP_PE, OPEN_CLIP_CLIP], ids=["pe", "clip"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preprocess_cfg.mean", [0.5, 0.5]),
        ("preprocess_cfg.mean", ["a", "b", "c"]),
        ("preprocess_cfg.mean", [float("nan")] * 3),
        ("preprocess_cfg.std", [0.5, 0.0, 0.5]),
        ("preprocess_cfg.interpolation", "nearest"),
        ("preprocess_cfg.resize_mode", "longest"),
        ("preprocess_cfg.size", 512),
        ("preprocess_cfg.size", [224, 384]),
        ("preprocess_cfg.mode", "L"),
        ("model_cfg.init_logit_bias", -10),
        ("model_cfg.multimodal_cfg", {"width": 768}),
        ("model_cfg.color", "blue"),
        ("model_cfg.text_cfg.pool_type", "last"),
        ("model_cfg.text_cfg.pool_type", "eos"),
        ("model_cfg.text_cfg.pool_type", ""),
        ("model_cfg.text_cfg.pad_id", 1),
        ("model_cfg.text_cfg.embed_cls", True),
        ("model_cfg.text_cfg.no_causal_mask", True),
        ("model_cfg.text_cfg.final_ln_after_pool", True),
        ("model_cfg.text_cfg.proj_type", "none"),
        ("model_cfg.text_cfg.proj_bias", True),
        ("model_cfg.text_cfg.ls_init_value", 1e-4),
        ("model_cfg.text_cfg.act_kwargs", {"approximate": "tanh"}),
        ("model_cfg.text_cfg.norm_kwargs", {"eps": 1e-6}),
        ("model_cfg.text_cfg.qk_norm", True),
        ("model_cfg.text_cfg.hf_model_name", "roberta-base"),
        ("model_cfg.text_cfg.hf_tokenizer_name", "bert-base-uncased"),
        ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}),
        ("model_cfg.text_cfg.tokenizer_mode", "clips"),
        ("model_cfg.text_cfg.new_option", 3),
        ("model_cfg.vision_cfg.new_option", 3),
        ("model_cfg.vision_cfg.image_size", [224, 448]),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(base, field, value, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{field} is ") as caught:
        locate(snapshot(tmp_path, changed(base, field, value)))
    assert "open_clip_config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timm_pool", "avg"),
        ("timm_pool", ""),
        ("timm_proj", "linear"),
        ("image_size", 336),
    ],
)
def test_another_head_or_size_on_a_pe_trunk_is_refused(field, value, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{field} is {value!r}; expected"):
        locate(snapshot(tmp_path, changed(OPEN_CLIP_PE, f"model_cfg.vision_cfg.{field}", value)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attentional_pool", True),
        ("no_ln_pre", True),
        ("pos_embed_type", "sin_cos_2d"),
        ("final_ln_after_pool", True),
        ("pool_type", "avg"),
        ("ls_init_value", 0.1),
        ("act_kwargs", {"approximate": "tanh"}),
        ("norm_kwargs", {"eps": 1e-6}),
        ("block_type", "custom"),
        ("scale_heads", True),
        ("layers", [3, 4, 6, 3]),
    ],
)
def test_another_kind_of_clip_tower_is_refused(field, value, tmp_path):
    with pytest.raises(CheckpointError, match=rf"vision_cfg\.{field} is"):
        locate(snapshot(tmp_path, changed(OPEN_CLIP_CLIP, f"model_cfg.vision_cfg.{field}", value)))


def test_the_hyperparameters_of_a_snapshot_are_used_though_its_weights_fit_others_too(tmp_path):
    config = changed(OPEN_CLIP_CLIP, "model_cfg.quick_gelu", False)
    config = changed(config, "model_cfg.text_cfg.heads", 8)
    config = changed(config, "model_cfg.vision_cfg.head_width", 8)
    found = locate(snapshot(tmp_path, config)).config
    assert (found.vision.activation, found.text.activation) == ("gelu", "gelu")
    assert (found.vision.num_heads, found.text.num_heads) == (6, 8)
    config = changed(OPEN_CLIP_PE, "model_cfg.quick_gelu", True)
    config = changed(config, "model_cfg.text_cfg.heads", 8)
    found = locate(snapshot(tmp_path, config)).config
    assert (found.vision.activation, found.text.activation) == ("gelu", "quick_gelu")
    assert found.text.num_heads == 8


@pytest.mark.parametrize(
    "field", ["output_dict", "vision_cfg.patch_dropout", "text_cfg.eos_id", "vision_cfg.timm_drop"]
)
def test_what_matters_in_training_only_may_be_anything(field, tmp_path):
    expected = locate(snapshot(tmp_path, OPEN_CLIP_CLIP)).config
    config = changed(OPEN_CLIP_CLIP, f"model_cfg.{field}", 1)
    assert locate(snapshot(tmp_path, config)).config == expected


def test_images_are_normalized_as_the_snapshot_says(tmp_path):
    config = tiny_open_clip()
    for name, mean, std in (("a", (0.5,) * 3, (0.5,) * 3), ("b", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))):
        given = changed(OPEN_CLIP_CLIP, "preprocess_cfg", {"mean": mean, "std": std})
        folder = snapshot(tmp_path / name, given)
        save_file(meta(native(config)), folder / "open_clip_model.safetensors")
        model = AutoModel.from_pretrained(folder, backend="torch", precision="fp32", device="cpu")
        pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        with torch.inference_mode():
            inputs = Normalize(mean, std)(torch.from_numpy(pixels))
            expected = random_model(config).encode_image(inputs).numpy()
        found = model.embed_images(pixels, input_color_format="rgb", normalize=False)
        assert np.abs(found - expected).max() < 1e-5


def test_a_file_inside_a_snapshot_is_what_the_snapshot_says(tmp_path):
    folder = snapshot(tmp_path, changed(OPEN_CLIP_PE, "preprocess_cfg.mean", 0.25))
    path = folder / "open_clip_model.safetensors"
    assert locate(path).config == locate(folder).config
    assert locate(path).config.image.mean == (0.25, 0.25, 0.25)
    assert locate(path, model="PE-Core-B16-224").config == find("PE-Core-B16-224").config
    snapshot(tmp_path, changed(OPEN_CLIP_PE, "model_cfg.text_cfg.pad_id", 1))
    with pytest.raises(CheckpointError, match="pad_id"):
        locate(path)


def test_a_model_that_contradicts_the_folder_is_refused(tmp_path):
    folder = snapshot(tmp_path, changed(OPEN_CLIP_PE, "preprocess_cfg.mean", 0.25))
    with pytest.raises(CheckpointError, match="Leave model= out"):
        locate(folder, model="PE-Core-B16-224")


# -- the same weights under another configuration -------------------------------------------------


def test_a_registered_model_under_another_configuration_has_another_fingerprint():
    core = find("pe-nano").config
    other = ModelConfig.from_dict({**core.to_dict(), "image": {"mean": [0.4, 0.5, 0.5]}})
    assert other.id == core.id
    assert weights_fingerprint(random_model(other)) != weights_fingerprint(random_model(core))


# -- timm -----------------------------------------------------------------------------------------


def timm_snapshot(folder: Path, config: dict) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        entry.id
        for entry in MODELS
        if entry.sources and entry.sources[0].repo.startswith("timm/vit_pe")
    ],
)
def test_a_timm_snapshot_is_the_registered_model_its_configuration_names(name, tmp_path):
    folder = timm_snapshot(tmp_path, timm_config(name))
    assert locate(folder).config == find(name).config
    assert locate(folder / "model.safetensors").config == find(name).config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", [0.485, 0.456, 0.406]),
        ("std", [0.2, 0.2, 0.2]),
        ("interpolation", "lanczos"),
        ("input_size", [3, 224, 224]),
        ("crop_pct", 0.9),
    ],
)
def test_a_timm_snapshot_of_other_preprocessing_is_refused(field, value, tmp_path):
    folder = timm_snapshot(tmp_path, timm_config(**{field: value}))
    with pytest.raises(CheckpointError, match=rf"pretrained_cfg\.{field} is"):
        locate(folder)


@pytest.mark.parametrize("name", ["timm/vit_pe_core_tiny_patch16_384.fb", "PE-Spatial-S16-512"])
def test_the_arguments_that_timm_writes_of_every_model_are_read(name, tmp_path):
    config = find(name).config
    written = timm_config(name)
    side = config.vision.image_size
    arguments = {
        "in_chans": 3,
        "num_classes": written["num_classes"],
        "global_pool": written["global_pool"],
        "img_size": [side, side],
    }
    assert locate(timm_snapshot(tmp_path, {**written, "model_args": arguments})).config == config


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_classes", 0), ("num_classes", 10), ("global_pool", "token"), ("global_pool", "avg")],
)
@pytest.mark.parametrize("where", ["", "model_args."])
def test_a_core_tower_without_its_pool_or_projection_is_refused(where, field, value, tmp_path):
    config = timm_config("timm/vit_pe_core_tiny_patch16_384.fb")
    changed = {field: value} if not where else {"model_args": {field: value}}
    with pytest.raises(CheckpointError, match=rf"config.json: {where}{field} is {value!r}"):
        locate(timm_snapshot(tmp_path, {**config, **changed}))


def test_a_timm_snapshot_with_arguments_of_the_model_is_refused(tmp_path):
    folder = timm_snapshot(tmp_path, {**timm_config(), "model_args": {"init_values": 0.1}})
    with pytest.raises(CheckpointError, match=r"model_args\.init_values is 0\.1"):
        locate(folder)


# -- Roboflow's, and others -----------------------------------------------------------------------


def test_fields_that_nothing_reads_are_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "config.json").write_text(
        json.dumps({"vision_encoder_config": "PE-Core-B16-224", "mean": [0, 0, 0]})
    )
    (tmp_path / "model.pt").touch()
    locate(tmp_path)
    assert "config.json is not read: mean" in caplog.text


# -- ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embed_dim", 24.0),
        ("vision.activation", "gelu_tanh"),
        ("vision.pooling", "average"),
        ("vision.num_heads", 2.0),
        ("vision.num_heads", -2),
        ("vision.has_rope", "false"),
        ("vision.has_class_token", 1),
        ("text.activation", "relu"),
        ("text.context_length", "12"),
        ("image.resize", "crop"),
        ("image.interpolation", "lanczos"),
        ("image.mean", [0.5, 0.5]),
        ("image.std", [0.5, 0.0, 0.5]),
        ("image.mean", [float("nan"), 0.5, 0.5]),
    ],
)
def test_our_own_configuration_has_no_value_that_nothing_computes(field, value):
    data = changed(json.loads(json.dumps(tiny_open_clip().to_dict())), field, value)
    with pytest.raises(ValueError, match=field.rpartition(".")[2]):
        ModelConfig.from_dict(data)


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    vocabulary = Tokenizer(build([("c", "a")]), tiny_open_clip().text.context_length)
    save_model(random_model(tiny_open_clip()), tmp_path / "model", vocabulary)
    with pytest.raises(CheckpointError, match=r"has 515 tokens, but my-clip was trained with 60"):
        AutoModel.from_pretrained(tmp_path / "model", backend="torch", device="cpu")


def test_a_timm_file_without_configuration_opens_as_before(tmp_path):
    save_file(timm(native(LANG)), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no registered Perception Encoder"):
        locate(tmp_path / "w.safetensors")
