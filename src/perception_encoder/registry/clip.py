"""OpenAI's CLIP vision transformers, the MIT-licensed alternative.

Configs: openai/CLIP clip/model.py and open_clip's model configs; weights: OpenAI's own, converted
to safetensors in timm's hub repositories.
"""

from typing import Final

from perception_encoder.registry.config import (
    ImageConfig,
    License,
    ModelConfig,
    ModelEntry,
    TextConfig,
    VisionConfig,
    WeightSource,
)

LICENSE: Final = License(spdx="MIT", url="https://github.com/openai/CLIP/blob/main/LICENSE")

_IMAGE: Final = ImageConfig(
    resize="center_crop",
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def _entry(
    name: str, *, image_size: int, patch_size: int, width: int, repo: str, num_parameters: int
) -> ModelEntry:
    depth, embed_dim, text_width = (24, 768, 768) if width == 1024 else (12, 512, 512)
    vision = VisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=width // 64,
        mlp_width=4 * width,
        activation="quick_gelu",
        has_rope=False,
        pooling="class_token",
    )
    text = TextConfig(
        context_length=77,
        vocab_size=49_408,
        width=text_width,
        depth=12,
        num_heads=text_width // 64,
        mlp_width=4 * text_width,
        activation="quick_gelu",
    )
    return ModelEntry(
        config=ModelConfig(
            id=f"clip/{name}", vision=vision, text=text, embed_dim=embed_dim, image=_IMAGE
        ),
        family="CLIP",
        license=LICENSE,
        sources=(WeightSource(repo=repo, filename="open_clip_model.safetensors"),),
        num_parameters=num_parameters,
    )


ENTRIES: Final = (
    _entry(
        "ViT-B-32",
        image_size=224,
        patch_size=32,
        width=768,
        repo="timm/vit_base_patch32_clip_224.openai",
        num_parameters=151_277_313,
    ),
    _entry(
        "ViT-B-16",
        image_size=224,
        patch_size=16,
        width=768,
        repo="timm/vit_base_patch16_clip_224.openai",
        num_parameters=149_620_737,
    ),
    _entry(
        "ViT-L-14",
        image_size=224,
        patch_size=14,
        width=1024,
        repo="timm/vit_large_patch14_clip_224.openai",
        num_parameters=427_616_513,
    ),
    _entry(
        "ViT-L-14-336",
        image_size=336,
        patch_size=14,
        width=1024,
        repo="timm/vit_large_patch14_clip_336.openai",
        num_parameters=427_944_193,
    ),
)
