"""Configs as open_clip and timm publish them."""

from perception_encoder.registry import find

OPEN_CLIP_PE = {
    "model_cfg": {
        "embed_dim": 1024,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "vit_pe_core_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": None,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 1024,
            "heads": 16,
            "layers": 24,
        },
        "custom_text": True,
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    },
}
OPEN_CLIP_CLIP = {
    "model_cfg": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 48,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 60,
            "width": 32,
            "heads": 4,
            "layers": 2,
            "mlp_ratio": 3.0,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def timm_config(name: str = "PE-Spatial-S16-512", **published: object) -> dict:
    repo = next(s.repo for s in find(name).sources if s.repo.startswith("timm/"))
    architecture, _, tag = repo.removeprefix("timm/").partition(".")
    config = find(name).config
    side = config.vision.image_size
    return {
        "architecture": architecture,
        "num_classes": config.embed_dim or 0,
        "num_features": config.vision.width,
        "global_pool": "map" if config.embed_dim else "",
        "pretrained_cfg": {
            "tag": tag,
            "input_size": [3, side, side],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "license": "apache-2.0",
            **published,
        },
    }
