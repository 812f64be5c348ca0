"""Reads the `open_clip_config.json` of an open_clip hub snapshot into our numbers.

Only the two architectures that our towers are: PE-Core (named by its timm trunk) and OpenAI's CLIP.
Anything else in the file is refused by name, because ignoring it would give wrong vectors.
"""

from collections.abc import Mapping
from typing import Any

from perception_encoder.errors import CheckpointError, UnknownModelError
from perception_encoder.registry import (
    ImageConfig,
    ModelConfig,
    TextConfig,
    VisionConfig,
    find,
)
from perception_encoder.registry.config import Activation, Interpolation, Resize

# open_clip 3.3 model_configs/PE-Core-*.json, `vision_cfg.timm_model_name`.
_PE_TRUNKS = {
    "vit_pe_core_tiny_patch16_384": "PE-Core-T16-384",
    "vit_pe_core_small_patch16_384": "PE-Core-S16-384",
    "vit_pe_core_base_patch16_224": "PE-Core-B16-224",
    "vit_pe_core_large_patch14_336": "PE-Core-L14-336",
    "vit_pe_core_gigantic_patch14_448": "PE-Core-G14-448",
}
_MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}
_VISION_KEYS = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
# Which tokenizer open_clip would use says nothing about the tower; ours is checked by its size.
_TOKENIZER_KEYS = {"hf_tokenizer_name", "tokenizer_kwargs"}

_RESIZES: Mapping[str, Resize] = {"shortest": "center_crop", "squash": "squash"}
_INTERPOLATIONS: Mapping[str, Interpolation] = {"bicubic": "bicubic", "bilinear": "bilinear"}
# open_clip 3.3 transform.py `PreprocessCfg` and constants.py.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def from_open_clip(data: Mapping[str, Any], name: str) -> ModelConfig:
    """Translate the parsed JSON of the repository or folder called `name`.

    The name becomes the id of a CLIP that is not registered: same numbers are not same weights.

    Raises:
        CheckpointError: the file is incomplete or describes another architecture.
    """
    try:
        model = data["model_cfg"]
        trunk = model["vision_cfg"].get("timm_model_name")
        if trunk in _PE_TRUNKS:
            return find(_PE_TRUNKS[trunk]).config
        try:
            return find(name).config
        except UnknownModelError:
            return _clip(model, data.get("preprocess_cfg") or {}, name)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise CheckpointError(f"open_clip_config.json cannot be used: {err!r}") from err


def _clip(model: Mapping[str, Any], preprocess: Mapping[str, Any], name: str) -> ModelConfig:
    vision, text = model["vision_cfg"], model["text_cfg"]
    _refuse_unknown(model, _MODEL_KEYS, "model_cfg")
    _refuse_unknown(vision, _VISION_KEYS, "vision_cfg")
    _refuse_unknown(text, _TEXT_KEYS | _TOKENIZER_KEYS, "text_cfg")
    activation: Activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return ModelConfig(
        id=name,
        vision=VisionConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["width"],
            depth=vision["layers"],
            num_heads=vision["width"] // vision.get("head_width", 64),
            mlp_width=int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            activation=activation,
            has_rope=False,
            pooling="class_token",
        ),
        text=TextConfig(
            context_length=text["context_length"],
            vocab_size=text["vocab_size"],
            width=text["width"],
            depth=text["layers"],
            num_heads=text["heads"],
            mlp_width=int(text["width"] * text.get("mlp_ratio", 4.0)),
            activation=activation,
        ),
        embed_dim=model["embed_dim"],
        image=ImageConfig(
            resize=_RESIZES[preprocess.get("resize_mode", "shortest")],
            interpolation=_INTERPOLATIONS[preprocess.get("interpolation", "bicubic")],
            mean=_three(preprocess.get("mean", _MEAN)),
            std=_three(preprocess.get("std", _STD)),
        ),
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _refuse_unknown(part: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(key for key in part.keys() - known if part[key])
    if unknown:
        raise CheckpointError(
            f"open_clip_config.json describes an architecture that is neither PE-Core nor OpenAI's "
            f"CLIP: {where} has {', '.join(unknown)}"
        )
