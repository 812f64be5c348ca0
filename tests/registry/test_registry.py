"""The registry's data: names lead to models, and the numbers are those of the real towers."""

import json
from dataclasses import replace

import pytest

from perception_encoder.checkpoints.load import empty_model
from perception_encoder.errors import UnknownModelError
from perception_encoder.registry import MODELS, ModelConfig, ModelEntry, VisionConfig, find


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.id)
def test_the_stated_number_of_parameters_is_the_towers(entry: ModelEntry) -> None:
    model = empty_model(entry.config)
    assert sum(p.numel() for p in model.parameters()) == entry.num_parameters


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.id)
def test_a_configuration_survives_json(entry: ModelEntry) -> None:
    written = json.dumps(entry.config.to_dict())
    assert ModelConfig.from_dict(json.loads(written)) == entry.config


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("perception-encoder/PE-Core-B16-224", "perception-encoder/PE-Core-B16-224"),
        ("PE-Core-B16-224", "perception-encoder/PE-Core-B16-224"),
        ("perception_encoder/PE-Core-G14-448", "perception-encoder/PE-Core-G14-448"),
        ("pe-core-l14-336", "perception-encoder/PE-Core-L14-336"),
        ("facebook/PE-Core-T16-384", "perception-encoder/PE-Core-T16-384"),
        ("timm/PE-Core-bigG-14-448", "perception-encoder/PE-Core-G14-448"),
        ("facebook/PE-Lang-G14-448-Tiling", "perception-encoder/PE-Lang-G14-448-Tiling"),
        ("timm/vit_base_patch32_clip_224.openai", "clip/ViT-B-32"),
        ("clip/ViT-L-14-336", "clip/ViT-L-14-336"),
        ("timm/vit_pe_core_base_patch16_224.fb", "timm/vit_pe_core_base_patch16_224.fb"),
        ("vit_pe_core_tiny_patch16_384", "timm/vit_pe_core_tiny_patch16_384.fb"),
        (
            "facebook/vit_pe_core_large_patch14_336_timm",
            "timm/vit_pe_core_large_patch14_336.fb",
        ),
        ("facebook/pe_core_base_patch16_224_timm", "timm/vit_pe_core_base_patch16_224.fb"),
        ("pe-nano", "pe-nano"),
    ],
)
def test_every_spelling_in_use_finds_its_model(name: str, model_id: str) -> None:
    assert find(name).id == model_id


def test_a_wrong_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownModelError, match="PE-Core-B16-224"):
        find("PE-Core-B16-225")
    with pytest.raises(UnknownModelError, match="pe models"):
        find("something else entirely")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("facebook/EUPE-ViT-B", "FAIR Noncommercial"),
        ("EUPE-ConvNeXt-T", "FAIR Noncommercial"),
        ("timm/vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", "FAIR Noncommercial"),
        ("facebook/pe-av-base", "PeAudioVideoModel"),
        ("facebook/pe-av-small-16-frame", "PeAudioVideoModel"),
        ("facebook/pe-a-frame-large", "PeAudioVideoModel"),
    ],
)
def test_families_of_similar_names_are_explained(name: str, what: str) -> None:
    with pytest.raises(UnknownModelError, match=f"cannot be opened here.*{what}"):
        find(name)


def test_a_vision_only_model_is_the_vision_tower_of_its_twin() -> None:
    twins = {entry.id: entry for entry in MODELS if entry.text_twin}
    assert len(twins) == 5
    for entry in twins.values():
        twin = find(entry.text_twin or "")
        assert twin.config.text is not None
        assert replace(twin.config, id=entry.id, text=None) == entry.config


def test_names_are_unambiguous() -> None:
    names = [name.lower() for e in MODELS for name in (e.id, *e.aliases)]
    assert len(names) == len(set(names))


def test_every_model_that_is_not_bundled_has_a_source_and_a_license() -> None:
    for entry in MODELS:
        assert entry.bundled or entry.sources
        assert entry.license.url.startswith("https://")
    pe_notice = find("PE-Core-B16-224").license.notice
    assert "LICENSE.PE" in pe_notice
    assert "LICENSE.PLM" in pe_notice


@pytest.mark.parametrize(
    "change", [{"image_size": 30}, {"num_heads": 5}], ids=["image_size", "num_heads"]
)
def test_numbers_that_do_not_fit_are_refused(change: dict[str, int]) -> None:
    numbers = {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "depth": 2,
        "num_heads": 2,
        "mlp_width": 64,
    }
    with pytest.raises(ValueError, match="no multiple of"):
        VisionConfig(**{**numbers, **change})


@pytest.mark.parametrize("data", [{}, {"id": "x", "vision": {}}, {"id": "x", "extra": 1}])
def test_a_broken_configuration_is_named_as_such(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a model configuration"):
        ModelConfig.from_dict(data)
