import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_samples import CLIP, CORE, meta, native, open_clip
from config_samples import OPEN_CLIP_CLIP, OPEN_CLIP_PE
from safetensors.torch import save_file

from perception_encoder.checkpoints import is_cached, locate
from perception_encoder.checkpoints.load import empty_model, load_model, random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.errors import CheckpointError, OfflineError, UnknownModelError
from perception_encoder.registry import MODELS, ModelEntry, find


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """An empty cache and the offline switch, so that nothing here can leave the machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def hollow(entry: ModelEntry) -> dict[str, torch.Tensor]:
    """Tensors of the real shapes, each over a single stored zero."""
    return {
        name: torch.zeros(()).expand(parameter.shape)
        for name, parameter in empty_model(entry.config).named_parameters()
    }


@pytest.mark.parametrize("name", ["PE-Core-L14-336.pt", "pe-core-l14-336.safetensors"])
def test_the_name_of_a_file_tells_the_model(name, tmp_path):
    path = touch(tmp_path / "some where" / name)
    found = locate(path)
    assert found.entry is find("PE-Core-L14-336")
    assert found.config is found.entry.config
    assert found.path == path


@pytest.mark.parametrize("name", ["ViT-B-32.pt", "vit_base_patch32_clip_224.openai.safetensors"])
def test_names_of_clip_files_are_known_without_their_owner(name, tmp_path):
    assert locate(touch(tmp_path / name)).entry is find("clip/ViT-B-32")


def test_the_name_of_the_only_folder_of_a_file_tells_too(tmp_path):
    path = touch(tmp_path / "PE-Core-S16-384" / "weights.safetensors")
    assert locate(path).entry is find("PE-Core-S16-384")
    assert locate(path.parent).path == path


def test_model_overrides_what_a_name_says(tmp_path):
    path = touch(tmp_path / "PE-Core-L14-336.pt")
    assert locate(path, model="PE-Core-B16-224").entry is find("PE-Core-B16-224")


def test_the_wrong_model_is_refused_when_loading(tmp_path):
    save_file(meta(native(CORE)), tmp_path / "w.safetensors")
    found = locate(tmp_path / "w.safetensors", model="PE-Core-T16-384")
    with pytest.raises(CheckpointError, match=r"taken for perception-encoder/PE-Core-T16-384"):
        load_model(found)


def test_home_and_text_paths_are_understood(tmp_path):
    touch(tmp_path / "PE-Core-B16-224.pt")
    assert locate("~/PE-Core-B16-224.pt").path == tmp_path / "PE-Core-B16-224.pt"
    assert locate(str(tmp_path / "PE-Core-B16-224.pt")).path == tmp_path / "PE-Core-B16-224.pt"


def test_an_existing_path_wins_over_an_id_of_the_same_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(random_model(CORE), tmp_path / "PE-Core-B16-224", None)
    assert locate("PE-Core-B16-224").config == CORE


@pytest.mark.parametrize(
    "entry",
    [
        entry
        for entry in MODELS
        if entry.family != "CLIP" and not entry.id.startswith("perception-encoder/PE-Lang")
    ],
    ids=lambda entry: entry.id,
)
def test_a_nameless_file_is_recognized_by_its_shapes(entry, tmp_path):
    torch.save(hollow(entry), tmp_path / "weights.pt")
    assert locate(tmp_path / "weights.pt").entry is entry


@pytest.mark.parametrize("spell", [meta, open_clip])
def test_shapes_are_recognized_in_foreign_names_too(spell, tmp_path):
    entry = find("PE-Core-T16-384")
    torch.save(spell(hollow(entry)), tmp_path / "weights.pt")
    assert locate(tmp_path / "weights.pt").entry is entry


def test_twins_of_the_same_shapes_need_model(tmp_path):
    torch.save(hollow(find("PE-Lang-L14-448")), tmp_path / "weights.pt")
    with pytest.raises(
        CheckpointError, match=r"PE-Lang-L14-448 and .*Tiling\. Say which with model="
    ):
        locate(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["clip/ViT-B-16", "clip/ViT-L-14"])
def test_a_nameless_clip_needs_model_because_its_gelu_cannot_be_seen(name, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(hollow(find(name)), path)
    with pytest.raises(CheckpointError, match=r"CLIP models always need that"):
        locate(path)
    assert locate(path, model=name).entry is find(name)


def test_a_nameless_file_of_an_unregistered_size_needs_model(tmp_path):
    save_file(meta(native(CORE)), tmp_path / "w.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no registered Perception Encoder \(2 vision blocks"
    ):
        locate(tmp_path / "w.safetensors")


def test_a_nameless_file_that_is_no_checkpoint_says_so(tmp_path):
    (tmp_path / "w.pt").write_text("hello, this is text")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        locate(tmp_path / "w.pt")
    save_file({"fc": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w\.pt: these are not the weights"):
        locate(tmp_path / "w.pt")


@pytest.mark.parametrize("has_model_config", [True, False])
def test_roboflows_package_is_read(has_model_config, tmp_path):
    (tmp_path / "config.json").write_text('{"vision_encoder_config": "PE-Core-B16-224"}')
    touch(tmp_path / "model.pt")
    if has_model_config:
        (tmp_path / "model_config.json").write_text('{"model_architecture": "perception-encoder"}')
    found = locate(tmp_path)
    assert found.entry is find("PE-Core-B16-224")
    assert found.path == tmp_path / "model.pt"


def test_an_open_clip_snapshot_of_pe_is_the_registered_model(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_PE))
    touch(tmp_path / "model.safetensors")  # timm's vision tower alone lies in such folders too
    path = touch(tmp_path / "open_clip_model.safetensors")
    found = locate(tmp_path)
    assert found.entry is find("PE-Core-B16-224")
    assert found.path == path


def test_an_open_clip_snapshot_of_an_unregistered_clip_loads_by_its_own_numbers(tmp_path):
    folder = tmp_path / "my-clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CLIP))
    torch.save(meta(native(tiny_open_clip())), folder / "open_clip_pytorch_model.bin")
    found = locate(folder)
    assert found.config == tiny_open_clip()
    assert found.entry is None
    load_model(found)


def tiny_open_clip():
    return replace(CLIP, id="my-clip", text=replace(CLIP.text, activation="quick_gelu"))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "vit_base_patch16_siglip_224"),
        ("vision_cfg", "ls_init_value", 0.1),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "pool_type", "last"),
    ],
)
def test_an_open_clip_snapshot_of_another_architecture_is_refused(part, key, value, tmp_path):
    config = json.loads(json.dumps(OPEN_CLIP_CLIP))
    config["model_cfg"][part][key] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    touch(tmp_path / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=key):
        locate(tmp_path)


def test_a_snapshot_in_the_hub_cache_is_named_after_its_repository(tmp_path):
    folder = tmp_path / "models--timm--vit_base_patch32_clip_224.openai" / "snapshots" / ("0" * 40)
    touch(folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CLIP))
    assert locate(folder).entry is find("clip/ViT-B-32")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is not a model folder"),
        ({"config.json": "{}"}, "is not a model folder"),
        ({"config.json": "{"}, r"config\.json: not readable as JSON"),
        ({"a.pt": "", "b.safetensors": ""}, r"several checkpoints \(a\.pt, b\.safetensors\)"),
        ({"config.json": '{"vision_encoder_config": "PE-Core-B16-224"}'}, r"model\.pt is missing"),
        ({"open_clip_config.json": "{}"}, "model_cfg"),
        ({"config.json": '{"format": "perception-encoder", "format_version": 9}'}, "Update"),
        (
            {
                "config.json": '{"format": "perception-encoder", "format_version": 1, '
                '"preprocess": "standard", "model": {"color": 1}}',
                "model.safetensors": "",
            },
            "not a model configuration",
        ),
        (
            {
                "config.json": '{"format": "perception-encoder", "format_version": 1, '
                '"preprocess": "magic", "model": {}}'
            },
            "unknown preprocessing 'magic'",
        ),
    ],
)
def test_folders_that_are_no_models_say_why(files, message, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        locate(folder)


def test_roboflows_package_of_an_unknown_model_names_it(tmp_path):
    (tmp_path / "config.json").write_text('{"vision_encoder_config": "PE-Core-X99"}')
    with pytest.raises(UnknownModelError, match="PE-Core-X99"):
        locate(tmp_path)


@pytest.mark.parametrize(
    "name", ["PE-Core-B61-224", "perception-encoder/PE-Core-B16", "clip/ViT-Q-1", "no such thing"]
)
def test_unknown_names_are_answered_with_the_nearest(name):
    with pytest.raises(UnknownModelError, match=r"(Did you mean|Known)"):
        locate(name)


@pytest.mark.parametrize("name", ["PE-Core-B16-224", "timm/PE-Core-B-16", "clip/ViT-B-32"])
def test_a_registered_model_that_is_not_cached_says_how_to_bring_it_offline(name):
    with pytest.raises(OfflineError, match=r"pe download") as caught:
        locate(name)
    assert find(name).id in str(caught.value)
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_arguments_that_would_be_ignored_are_refused(tmp_path):
    with pytest.raises(ValueError, match="revision"):
        locate(touch(tmp_path / "PE-Core-B16-224.pt"), revision="main")
    with pytest.raises(ValueError, match="model="):
        locate("PE-Core-B16-224", model="PE-Core-L14-336")


def test_the_vocabulary_in_the_models_folder_comes_first(tmp_path):
    path = touch(tmp_path / "PE-Core-B16-224.pt")
    merges = touch(tmp_path / "bpe_simple_vocab_16e6.txt.gz")
    assert locate(path).tokenizer == merges
    own = touch(tmp_path / "tokenizer.json")
    assert locate(path).tokenizer == own


def test_clips_vocabulary_comes_from_an_installed_open_clip(tmp_path):
    found = locate(touch(tmp_path / "PE-Core-B16-224.pt")).tokenizer
    assert found.name == "bpe_simple_vocab_16e6.txt.gz"


def test_without_any_vocabulary_the_model_is_found_all_the_same(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        "perception_encoder.preprocess.vocabulary.installed_vocabulary", lambda: None
    )
    with caplog.at_level(logging.WARNING):
        found = locate(touch(tmp_path / "PE-Core-B16-224.pt"))
    assert found.tokenizer is None
    assert "text cannot be embedded" in caplog.text


def test_another_vocabulary_than_clips_is_only_sought_in_the_folder(tmp_path, caplog):
    save_model(random_model(CORE), tmp_path / "mine", None)
    with caplog.at_level(logging.WARNING):
        assert locate(tmp_path / "mine").tokenizer is None
    assert "has no tokenizer.json" in caplog.text


def test_nothing_is_cached_in_an_empty_cache():
    assert [entry.id for entry in MODELS if is_cached(entry) and not entry.bundled] == []


def test_the_bundled_model_is_found_by_name():
    found = locate("pe-nano")
    assert found.path == is_cached(find("pe-nano"))
    assert "bundled" in found.source
    assert found.config == find("pe-nano").config
    assert found.tokenizer is not None
