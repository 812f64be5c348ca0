"""LoRA adapters against PEFT's own merge of them, recorded by `parity/adapters.py`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import formula
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from perception_encoder import AutoModel
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.adapters import find_adapter, merge_adapter
from perception_encoder.checkpoints.known_weights import find_known_weights
from perception_encoder.checkpoints.load import build_from_tensors, load_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.errors import CheckpointError, UnknownModelError
from perception_encoder.registry import ModelConfig, TextConfig, VisionConfig

GOLDEN = formula.GOLDEN / "adapters"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
TINY = ModelConfig(
    id="tiny",
    vision=VisionConfig(
        image_size=48, patch_size=16, width=32, depth=2, num_heads=2, mlp_width=128
    ),
    text=TextConfig(
        context_length=16, vocab_size=49_408, width=32, depth=2, num_heads=2, mlp_width=128
    ),
    embed_dim=24,
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """Folders of our own format with the weights that the adapters were trained on."""
    folder = tmp_path_factory.mktemp("bases")
    found = {}
    for name, keys in json.loads((GOLDEN / "keys.json").read_text()).items():
        tensors = formula.formula_state(keys)
        model = build_from_tensors(TINY, {k: torch.from_numpy(t) for k, t in tensors.items()})
        save_model(model, folder / name, None)
        found[name] = folder / name
    return found


def base_of(adapter: str, bases: dict[str, Path]) -> Path:
    return bases["meta" if adapter.startswith("meta") else "open-clip"]


@torch.inference_mode()
def embeddings(model) -> tuple[np.ndarray, np.ndarray]:
    images = model.encode_image(torch.from_numpy(formula.pixels(2, 48, 48)))
    return images.numpy(), model.encode_text(torch.from_numpy(formula.token_ids(16))).numpy()


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (found, expected)]
    return float(np.abs(unit[0] - unit[1]).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_merged_model_computes_what_pefts_merge_does(name, bases):
    base = base_of(name, bases)
    loaded = load_model(locate(base, adapter=GOLDEN / name))
    recorded = np.load(GOLDEN / name / "outputs.npz")
    images, texts = embeddings(loaded.model)
    assert difference(images, recorded["images"]) < 2e-5
    assert difference(texts, recorded["texts"]) < 2e-5
    plain = load_model(locate(base))
    before = embeddings(plain.model)
    assert difference(before[0], images) > 1e-3
    assert name == "meta-vision" or difference(before[1], texts) > 1e-3
    assert loaded.fingerprint != plain.fingerprint


def test_the_folder_of_an_adapter_opens_its_base(bases, tmp_path):
    folder = adapter_copy(tmp_path, base_model_name_or_path=str(bases["open-clip"]))
    expected = load_model(locate(bases["open-clip"], adapter=folder)).fingerprint
    for path in (folder, folder / "adapter_model.safetensors"):
        found = locate(path)
        assert found.config == TINY
        assert load_model(found).fingerprint == expected
        assert "with the adapter" in found.source


def test_saving_writes_the_merged_weights(bases, tmp_path):
    options = {"backend": "torch", "precision": "fp32", "device": "cpu"}
    model = AutoModel.from_pretrained(bases["meta"], adapter=GOLDEN / "meta", **options)
    model.save_pretrained(tmp_path / "merged")
    saved = AutoModel.from_pretrained(tmp_path / "merged", **options)
    assert saved.identity.fingerprint == model.identity.fingerprint
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    found = [one.embed_images(pixels) for one in (saved, model)]
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)


def test_half_precision_bases_are_merged_in_single_precision(bases, tmp_path):
    half = load_model(locate(bases["meta"])).model.half()
    save_model(half, tmp_path / "half", None)
    loaded = load_model(locate(tmp_path / "half", adapter=GOLDEN / "meta"))
    widened = load_model(locate(tmp_path / "half"), dtype=torch.float32).model
    save_model(widened, tmp_path / "single", None)
    expected = load_model(locate(tmp_path / "single", adapter=GOLDEN / "meta"))
    assert loaded.fingerprint == expected.fingerprint
    for name, parameter in expected.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter), name
    rounded = load_model(locate(tmp_path / "half", adapter=GOLDEN / "meta"), dtype=torch.bfloat16)
    assert rounded.fingerprint == expected.fingerprint
    assert rounded.model.vision.patch_embed.weight.dtype == torch.bfloat16


def test_what_is_known_of_a_base_is_not_taken_for_the_merged_model(bases, tmp_path):
    options = {"backend": "torch", "precision": "fp32", "device": "cpu"}
    folder = adapter_copy(tmp_path, base_model_name_or_path=str(bases["open-clip"]))
    base = AutoModel.from_pretrained(bases["open-clip"], **options)
    assert find_known_weights(locate(folder)) is None
    model = AutoModel.from_pretrained(folder, **options)
    known = find_known_weights(locate(folder))
    assert known is not None
    assert known.fingerprint == model.identity.fingerprint != base.identity.fingerprint
    (folder / "adapter_config.json").touch()
    assert find_known_weights(locate(folder)) is None


def test_embeddings_of_tokens_are_merged(tmp_path):
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, 60), (32, 2)))
    folder = adapter_copy(tmp_path, lora_alpha=3, r=2)
    key = "base_model.model.text.token_embedding.lora_embedding_"
    save_file({f"{key}A": down, f"{key}B": up}, folder / "adapter_model.safetensors")
    weight = torch.randn(60, 32, generator=generator)
    state = {"text.token_embedding.weight": weight}
    adapter = find_adapter(folder)
    assert adapter is not None
    merged = merge_adapter(adapter, state)
    expected = weight + (up @ down).T * 1.5
    torch.testing.assert_close(merged["text.token_embedding.weight"], expected)


def adapter_copy(tmp_path: Path, name: str = "open-clip", **changed: object) -> Path:
    folder = tmp_path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(GOLDEN / name, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changed}))
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peft_type": "IA3"}, r"peft_type is 'IA3'; only 'LORA' is merged here"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights is 'pissa'.*merge_and_unload"),
        ({"target_parameters": ["proj"]}, "target_parameters is"),
        ({"layer_replication": [[0, 4]]}, "layer_replication is"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
        ({"use_something_new": True}, "use_something_new is True"),
        ({"lora_alpha": "much"}, "no usable number"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "alpha_pattern has names with other signs"),
        ({"alpha_pattern": ["qkv"]}, "alpha_pattern"),
    ],
)
def test_what_is_not_merged_is_refused_by_its_name(changed, message, bases, tmp_path):
    folder = adapter_copy(tmp_path, **changed)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(locate(bases["open-clip"], adapter=folder))
    assert "adapter_config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.q_proj.lora_A.weight": (2, 32), "x.q_proj.lora_B.weight": (32, 2)}, r"x\.q_proj\.w"),
        ({"visual.trunk.blocks.0.attn.qkv.lora_A.weight": (2, 32)}, "only one of its two matrices"),
        (
            {
                "visual.trunk.blocks.0.attn.qkv.lora_A.weight": (2, 32),
                "visual.trunk.blocks.0.attn.qkv.lora_B.weight": (95, 2),
            },
            r"does not fit the model: .*blocks\.0\.attn\.qkv\.weight\. Give the model",
        ),
        (
            {
                "visual.trunk.blocks.0.attn.qkv.lora_A.weight": (2, 32),
                "visual.trunk.blocks.0.attn.qkv.lora_B.weight": (96, 3),
            },
            "not two matrices of one rank",
        ),
        ({"visual.trunk.blocks.0.attn.qkv.lora_C": (2, 32)}, "lora_C is not merged here"),
        (
            {
                "transformer.resblocks.0.mlp.c_fc.lora_A.weight": (2, 32),
                "transformer.resblocks.0.mlp.c_fc.lora_B.weight": (128, 2),
            },
            "fit both the vision and the text tower",
        ),
        ({"head.weight": (1000, 24)}, r"other shapes: head\.weight"),
        ({}, "holds no tensors"),
    ],
)
def test_tensors_that_fit_nothing_are_refused_by_their_names(tensors, message, bases, tmp_path):
    folder = adapter_copy(tmp_path)
    named = {f"base_model.model.{key}": torch.ones(shape) for key, shape in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_model(locate(bases["open-clip"], adapter=folder))


def test_an_adapter_without_base_weights_or_place_says_what_to_do(bases, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = adapter_copy(tmp_path)
    with pytest.raises(CheckpointError, match=r"base_model_name_or_path is empty.*adapter="):
        locate(folder)
    with pytest.raises(CheckpointError, match="has only one of its two"):
        load_model(locate(bases["open-clip"], adapter=broken(folder)))
    with pytest.raises(CheckpointError, match="PE-Core-X99"):
        locate(adapter_copy(tmp_path, base_model_name_or_path="PE-Core-X99"))
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        locate(adapter_copy(tmp_path, base_model_name_or_path=str(folder)))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="an adapter without its weights"):
        locate(folder)
    with pytest.raises(CheckpointError, match="no adapter: it should be a folder with"):
        locate(bases["open-clip"], adapter=bases["meta"])
    with pytest.raises(CheckpointError, match="no adapter"):
        locate(bases["open-clip"], adapter=tmp_path / "absent" / "much" / "deeper")


def broken(folder: Path) -> Path:
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(iter(tensors))
    tensors[key.replace("lora", "x")] = tensors.pop(key)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_of_an_adapter_is_refused(bases, tmp_path):
    folder = adapter_copy(tmp_path, base_model_name_or_path=str(bases["open-clip"]))
    with pytest.raises(CheckpointError, match="one is merged at a time"):
        locate(folder, adapter=GOLDEN / "open-clip-dora")


def test_an_adapter_is_fetched_from_the_hub(bases, tmp_path, monkeypatch):
    from checkpoints.hub_server import serve
    from huggingface_hub import constants

    folder = adapter_copy(tmp_path, base_model_name_or_path=str(bases["open-clip"]))
    with serve() as hub:
        url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for path in folder.iterdir():
            hub.put("someone/pe-lora", path.name, path.read_bytes())
        expected = load_model(locate(folder)).fingerprint
        for name, adapter in (("someone/pe-lora", None), (bases["open-clip"], "someone/pe-lora")):
            assert load_model(locate(name, adapter=adapter)).fingerprint == expected
        with pytest.raises(UnknownModelError, match="no adapter 'someone/absent'"):
            locate(bases["open-clip"], adapter="someone/absent")


def test_a_merged_vision_tower_is_not_its_twins(bases, tmp_path):
    vision = load_model(replace(locate(bases["meta"]), config=replace(TINY, text=None))).model
    save_model(vision, tmp_path / "vision", None)
    options = {"backend": "torch", "precision": "fp32", "device": "cpu"}
    adapter = GOLDEN / "meta-vision"
    model = AutoModel.from_pretrained(tmp_path / "vision", adapter=adapter, **options)
    recorded = np.load(adapter / "outputs.npz")["images"]
    with torch.inference_mode():
        images = load_model(locate(tmp_path / "vision", adapter=adapter)).model.encode_image(
            torch.from_numpy(formula.pixels(2, 48, 48))
        )
    assert difference(images.numpy(), recorded) < 2e-5
    with pytest.raises(CheckpointError, match="Merge the adapter into the twin"):
        model.attach_text_tower()
