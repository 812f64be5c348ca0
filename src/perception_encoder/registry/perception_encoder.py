"""Meta's Perception Encoder: PE-Core (images and texts), PE-Spatial and PE-Lang (features).

timm publishes the vision towers of PE-Core alone, with pool and projection: the same image
embeddings without the text tower.

Configs: facebookresearch/perception_models core/vision_encoder/config.py; hub repositories as
named in its apps/pe/README.md and in timm's and open_clip's indexes of pretrained weights.
"""

from dataclasses import replace
from typing import Final

from perception_encoder.registry.config import (
    Family,
    License,
    ModelConfig,
    ModelEntry,
    TextConfig,
    VisionConfig,
    WeightSource,
)

_VOCAB_SIZE: Final = 49_408

LICENSE: Final = License(
    spdx="Apache-2.0",
    url="https://github.com/facebookresearch/perception_models/blob/main/LICENSE.PE",
    notice=(
        "Meta's repository and hub cards give the PE weights under Apache-2.0 (LICENSE.PE: "
        "https://github.com/facebookresearch/perception_models/blob/main/LICENSE.PE). "
        "Other documentation describes them as FAIR Noncommercial Research (LICENSE.PLM: "
        "https://github.com/facebookresearch/perception_models/blob/main/LICENSE.PLM). "
        "Read both before commercial use; clip/… models are MIT."
    ),
)
CONFIG: Final = ModelConfig(
    id="pe-nano",
    vision=VisionConfig(
        image_size=48, patch_size=8, width=192, depth=6, num_heads=3, mlp_width=768
    ),
    text=TextConfig(
        context_length=32, vocab_size=4096, width=192, depth=3, num_heads=3, mlp_width=768
    ),
    embed_dim=192,
)

ENTRY: Final = ModelEntry(
    config=CONFIG,
    family="pe-nano",
    license=License(
        spdx="Apache-2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        notice="Trained from openly licensed drawings; MODEL_CARD.md lists them. "
        "It knows drawings, not photos.",
    ),
    num_parameters=5_360_065,
    bundled=True,
)


def _vision(
    image_size: int, patch_size: int, width: int, depth: int, num_heads: int
) -> VisionConfig:
    return VisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=num_heads,
        mlp_width=4 * width,
    )


def _text(width: int, depth: int, num_heads: int, context_length: int) -> TextConfig:
    return TextConfig(
        context_length=context_length,
        vocab_size=_VOCAB_SIZE,
        width=width,
        depth=depth,
        num_heads=num_heads,
        mlp_width=4 * width,
    )


_T16: Final = _vision(384, 16, 192, 12, 3)
_S16: Final = _vision(384, 16, 384, 12, 6)
_B16: Final = _vision(224, 16, 768, 12, 12)
_L14: Final = _vision(336, 14, 1024, 24, 16)
_G14: Final = replace(_vision(448, 14, 1536, 50, 16), mlp_width=8960, has_class_token=False)

_SMALL_TEXT: Final = _text(512, 12, 8, 32)
_BASE_TEXT: Final = _text(1024, 24, 16, 32)
_GIANT_TEXT: Final = _text(1280, 24, 20, 72)


def _core(
    name: str,
    vision: VisionConfig,
    text: TextConfig,
    embed_dim: int,
    timm_repo: str,
    num_parameters: int,
    imagenet_accuracy: float,
) -> ModelEntry:
    return ModelEntry(
        config=ModelConfig(
            id=f"perception-encoder/{name}", vision=vision, text=text, embed_dim=embed_dim
        ),
        family="PE-Core",
        license=LICENSE,
        # The converted file comes first: safetensors can be mapped and needs no unpickling.
        sources=(
            WeightSource(repo=timm_repo, filename="open_clip_model.safetensors"),
            WeightSource(repo=f"facebook/{name}", filename=f"{name}.pt"),
        ),
        aliases=(name, f"perception_encoder/{name}"),
        num_parameters=num_parameters,
        imagenet_accuracy=imagenet_accuracy,
    )


def _vision_only(
    timm_model: str, twin: str, vision: VisionConfig, embed_dim: int, num_parameters: int
) -> ModelEntry:
    # Earlier uploads of the same files, as public code names them; tried last.
    older = tuple(f"facebook/{prefix}{timm_model}_timm" for prefix in ("vit_", ""))
    timm_id = f"timm/vit_{timm_model}.fb"
    return ModelEntry(
        config=ModelConfig(id=timm_id, vision=vision, embed_dim=embed_dim),
        family="PE-Core",
        license=LICENSE,
        sources=tuple(
            WeightSource(repo=repo, filename="model.safetensors") for repo in (timm_id, *older)
        ),
        aliases=(f"vit_{timm_model}.fb", f"timm/vit_{timm_model}", f"vit_{timm_model}", *older),
        num_parameters=num_parameters,
        text_twin=f"perception-encoder/{twin}",
    )


def _features_only(
    family: Family, name: str, vision: VisionConfig, timm_model: str, num_parameters: int
) -> ModelEntry:
    return ModelEntry(
        config=ModelConfig(
            id=f"perception-encoder/{name}",
            vision=replace(vision, pooling="none", has_post_norm=False),
        ),
        family=family,
        license=LICENSE,
        sources=(
            WeightSource(repo=f"timm/{timm_model}", filename="model.safetensors"),
            WeightSource(repo=f"facebook/{name}", filename=f"{name}.pt"),
        ),
        aliases=(name, f"perception_encoder/{name}"),
        num_parameters=num_parameters,
    )


_LANG_G14: Final = replace(_G14, depth=47, layer_scale=0.1)
_LANG_L14: Final = replace(_L14, image_size=448, depth=23, layer_scale=0.1)

ENTRIES: Final = (
    _core("PE-Core-T16-384", _T16, _SMALL_TEXT, 512, "timm/PE-Core-T-16-384", 69_545_601, 62.1),
    _core("PE-Core-S16-384", _S16, _SMALL_TEXT, 512, "timm/PE-Core-S-16-384", 87_187_713, 72.7),
    _core("PE-Core-B16-224", _B16, _BASE_TEXT, 1024, "timm/PE-Core-B-16", 447_659_521, 78.4),
    _core("PE-Core-L14-336", _L14, _BASE_TEXT, 1024, "timm/PE-Core-L-14-336", 671_137_793, 83.5),
    _core(
        "PE-Core-G14-448", _G14, _GIANT_TEXT, 1280, "timm/PE-Core-bigG-14-448", 2_419_266_561, 85.4
    ),
    _vision_only("pe_core_tiny_patch16_384", "PE-Core-T16-384", _T16, 512, 6_140_544),
    _vision_only("pe_core_small_patch16_384", "PE-Core-S16-384", _S16, 512, 23_782_656),
    _vision_only("pe_core_base_patch16_224", "PE-Core-B16-224", _B16, 1024, 93_672_960),
    _vision_only("pe_core_large_patch14_336", "PE-Core-L14-336", _L14, 1024, 317_151_232),
    _vision_only("pe_core_gigantic_patch14_448", "PE-Core-G14-448", _G14, 1280, 1_882_032_640),
    _features_only(
        "PE-Spatial",
        "PE-Spatial-T16-512",
        replace(_T16, image_size=512),
        "vit_pe_spatial_tiny_patch16_512.fb",
        5_683_200,
    ),
    _features_only(
        "PE-Spatial",
        "PE-Spatial-S16-512",
        replace(_S16, image_size=512),
        "vit_pe_spatial_small_patch16_512.fb",
        21_983_232,
    ),
    _features_only(
        "PE-Spatial",
        "PE-Spatial-B16-512",
        replace(_B16, image_size=512),
        "vit_pe_spatial_base_patch16_512.fb",
        86_433_792,
    ),
    _features_only(
        "PE-Spatial",
        "PE-Spatial-L14-448",
        replace(_L14, image_size=448),
        "vit_pe_spatial_large_patch14_448.fb",
        303_964_160,
    ),
    _features_only(
        "PE-Spatial",
        "PE-Spatial-G14-448",
        replace(_G14, layer_scale=0.1),
        "vit_pe_spatial_gigantic_patch14_448.fb",
        1_851_887_104,
    ),
    _features_only(
        "PE-Lang", "PE-Lang-L14-448", _LANG_L14, "vit_pe_lang_large_patch14_448.fb", 291_415_040
    ),
    _features_only(
        "PE-Lang",
        "PE-Lang-G14-448",
        _LANG_G14,
        "vit_pe_lang_gigantic_patch14_448.fb",
        1_740_922_624,
    ),
    _features_only(
        "PE-Lang",
        "PE-Lang-L14-448-Tiling",
        _LANG_L14,
        "vit_pe_lang_large_patch14_448.fb_tiling",
        291_415_040,
    ),
    _features_only(
        "PE-Lang",
        "PE-Lang-G14-448-Tiling",
        _LANG_G14,
        "vit_pe_lang_gigantic_patch14_448.fb_tiling",
        1_740_922_624,
    ),
)
