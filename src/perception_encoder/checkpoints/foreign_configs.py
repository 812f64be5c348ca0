"""Read the configs of open_clip and timm hub snapshots.

Two open_clip architectures are supported: PE-Core (named by its timm trunk) and OpenAI's CLIP.
Every field that changes embeddings in open_clip 3.3 is read, or refused with its name, its value
and the supported one. Fields that only matter in training may have any value. A timm config names a
registered model; its transform (bicubic, shorter side) is not what PE was trained with, so images
are prepared as Meta does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from perception_encoder.errors import CheckpointError, UnknownModelError
from perception_encoder.registry import (
    ImageConfig,
    ModelConfig,
    ModelEntry,
    TextConfig,
    VisionConfig,
    find,
)
from perception_encoder.registry.config import Activation, Interpolation, Resize

OPEN_CLIP_CONFIG_NAME: Final = "open_clip_config.json"

# open_clip 3.3 model_configs/PE-Core-*.json, `vision_cfg.timm_model_name`.
_PE_TRUNKS: Final = {
    "vit_pe_core_tiny_patch16_384": "PE-Core-T16-384",
    "vit_pe_core_small_patch16_384": "PE-Core-S16-384",
    "vit_pe_core_base_patch16_224": "PE-Core-B16-224",
    "vit_pe_core_large_patch14_336": "PE-Core-L14-336",
    "vit_pe_core_gigantic_patch14_448": "PE-Core-G14-448",
}

# open_clip's defaults: model.py `CLIPVisionCfg` and `CLIPTextCfg`.
_VISION_DEFAULTS: Final = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
}
_TEXT_DEFAULTS: Final = {
    "context_length": 77,
    "vocab_size": 49_408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
}
# Fields that change what a tower computes, with the only values that our towers have.
_FIXED_BLOCK: Final[Mapping[str, tuple[object, ...]]] = {
    "ls_init_value": (None,),
    "output_tokens": (False, True),  # an additional output
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}, {"eps": 1e-5}),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}
_FIXED_VISION: Final[Mapping[str, tuple[object, ...]]] = {
    **_FIXED_BLOCK,
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "final_ln_after_pool": (False,),
    "pool_type": ("tok",),
    "timm_model_name": (None, ""),
}
_FIXED_TRUNK: Final[Mapping[str, tuple[object, ...]]] = {
    "timm_pool": ("map",),
    "timm_proj": (None, ""),
}
_FIXED_TEXT: Final[Mapping[str, tuple[object, ...]]] = {
    **_FIXED_BLOCK,
    "embed_cls": (False,),
    "pad_id": (0,),
    "no_causal_mask": (False,),
    "final_ln_after_pool": (False,),
    "pool_type": ("argmax",),
    "proj_bias": (False,),
    "proj_type": ("linear",),
    "hf_model_name": (None, ""),
    "tokenizer_mode": (None, ""),
    # CLIP's own: lower case, HTML entities unescaped, spaces collapsed.
    "tokenizer_kwargs": (None, {}, {"clean": "lower"}),
}
_FIXED_MODEL: Final[Mapping[str, tuple[object, ...]]] = {
    "init_logit_bias": (None,),
    "multimodal_cfg": (None,),
}
# Read by open_clip only in training, or without an effect on these towers.
_FREE_MODEL: Final = {
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale"),
    *("nonscalar_logit_scale", "cast_dtype", "output_dict"),
}
_FREE_VISION: Final = {
    *("patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained"),
    *("timm_proj_bias", "timm_drop", "timm_drop_path"),
}
_FREE_TEXT: Final = {
    *("eos_id", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    "hf_tokenizer_name",  # see `_check_vocabulary`
}
_CLIP_VOCABULARIES: Final = "openai/clip-"  # every repository of that name has the same

_RESIZES: Final[Mapping[str, Resize]] = {"shortest": "center_crop", "squash": "squash"}
_INTERPOLATIONS: Final[Mapping[str, Interpolation]] = {
    "bicubic": "bicubic",
    "bilinear": "bilinear",
    "random": "bicubic",  # in training only; open_clip then computes with bicubic
}
# open_clip 3.3 transform.py `PreprocessCfg` and constants.py.
_PREPROCESS_DEFAULTS: Final[Mapping[str, Any]] = {
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,  # of borders, which neither resize_mode has
}
_DEFAULT_IF_FALSE: Final = ("mean", "std", "interpolation", "resize_mode")
_CHANNELS: Final = 3
_POOLS_WITHOUT_WEIGHTS: Final = ("", "avg", "token", "max", "avgmax")  # timm's, of patch features


@dataclass(frozen=True)
class _Part:
    """One object of the file, and where it is in it."""

    where: str
    fields: Mapping[str, Any]

    def refuse(self, field: str, expected: object) -> CheckpointError:
        return CheckpointError(
            f"{OPEN_CLIP_CONFIG_NAME}: {self.where}.{field} is {self.fields.get(field)!r}; "
            f"expected {expected}. Other models than PE-Core and OpenAI's CLIP cannot be opened "
            "here: use open_clip itself"
        )

    def require(self, allowed: Mapping[str, tuple[object, ...]]) -> None:
        for field, values in allowed.items():
            value = self.fields.get(field, values[0])
            is_off = not value and any(not other for other in values)
            if value not in values and not is_off:
                raise self.refuse(field, " or ".join(map(repr, values)))

    def refuse_unknown(self, known: set[str]) -> None:
        for field in sorted(self.fields.keys() - known):
            if self.fields[field]:  # what is off changes nothing
                raise self.refuse(field, "no such field")


def parse_open_clip(data: Mapping[str, Any], name: str, *, has_vocabulary: bool) -> ModelConfig:
    """Translate the parsed JSON of a snapshot.

    Args:
        data: of the file.
        name: of the repository or folder. It becomes the id of a CLIP that is not registered: the
            same config does not mean the same weights.
        has_vocabulary: whether the snapshot has its own vocabulary; without one, CLIP's is used.

    Raises:
        CheckpointError: the file is incomplete, or describes what is not supported here.
    """
    try:
        model = _Part("model_cfg", data["model_cfg"])
        model.require(_FIXED_MODEL)
        model.refuse_unknown({*_FIXED_MODEL, *_FREE_MODEL})
        trunk = model.fields["vision_cfg"].get("timm_model_name")
        registered = find(_PE_TRUNKS[trunk]).config if trunk in _PE_TRUNKS else _or_none(name)
        config = _core(model, registered) if trunk in _PE_TRUNKS and registered else _clip(model)
        image = config.image
        if "text_cfg" in model.fields or data.get("preprocess_cfg"):
            image = _image(data.get("preprocess_cfg") or {}, config.vision.image_size)
        # What is read is checked as our own configuration is.
        config = ModelConfig.from_dict(replace(config, image=image).to_dict())
        if not has_vocabulary:
            _check_vocabulary(model)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as err:
        raise CheckpointError(f"{OPEN_CLIP_CONFIG_NAME} cannot be used: {err!r}") from err
    return replace(config, id=name if registered is None else registered.id)


def describe_for_open_clip(config: ModelConfig) -> dict[str, Any] | None:
    """Return the JSON of a snapshot of a model; None where open_clip has no such vision tower.

    Other parts are described as far as open_clip has words for them: read it again and compare.
    """
    vision, text, image = config.vision, config.text, config.image
    if text is None:
        return None
    trunk = next((t for t, name in _PE_TRUNKS.items() if find(name).config.vision == vision), None)
    described: dict[str, Any] = {"image_size": vision.image_size}
    if trunk is not None:
        described |= {"timm_model_name": trunk, "timm_model_pretrained": False}
        described |= {"timm_pool": "map", "timm_proj": None}
    elif vision.pooling == "class_token" and not vision.has_rope:
        described |= {"layers": vision.depth, "width": vision.width}
        described |= {"head_width": vision.width // vision.num_heads}
        described |= {"mlp_ratio": vision.mlp_width / vision.width}
        described |= {"patch_size": vision.patch_size}
    else:
        return None
    resize = next(theirs for theirs, ours in _RESIZES.items() if ours == image.resize)
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "quick_gelu": text.activation == "quick_gelu",
            "vision_cfg": described,
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocab_size,
                "width": text.width,
                "heads": text.num_heads,
                "layers": text.depth,
                "mlp_ratio": text.mlp_width / text.width,
            },
            "custom_text": trunk is not None,
        },
        "preprocess_cfg": {
            "size": vision.image_size,
            "mode": "RGB",
            "mean": list(image.mean),
            "std": list(image.std),
            "interpolation": image.interpolation,
            "resize_mode": resize,
        },
    }


def _or_none(name: str) -> ModelConfig | None:
    try:
        return find(name).config
    except UnknownModelError:
        return None


def _core(model: _Part, core: ModelConfig) -> ModelConfig:
    """Read a config whose vision tower is the timm trunk of a PE-Core, always with exact GELU.

    A file that names the trunk alone is one that open_clip could not open: all else is PE-Core's.
    """
    side = core.vision.image_size
    fields = {"image_size": side, **model.fields["vision_cfg"]}
    vision = _Part("model_cfg.vision_cfg", fields)
    vision.require(_FIXED_TRUNK)
    vision.refuse_unknown({*_VISION_DEFAULTS, *_FIXED_VISION, *_FREE_VISION, *_FIXED_TRUNK})
    if _one_side(vision, "image_size") != side:  # timm scales rotary positions at other sizes
        raise vision.refuse("image_size", side)
    if "text_cfg" not in model.fields:
        return core
    return replace(core, text=_text(model), embed_dim=model.fields["embed_dim"])


def _clip(model: _Part) -> ModelConfig:
    part = _Part("model_cfg.vision_cfg", model.fields["vision_cfg"])
    part.require(_FIXED_VISION)
    part.refuse_unknown({*_VISION_DEFAULTS, *_FIXED_VISION, *_FREE_VISION, *_FIXED_TRUNK})
    part = replace(part, fields={**_VISION_DEFAULTS, **part.fields})
    vision = part.fields
    if not isinstance(vision["layers"], int):
        raise part.refuse("layers", "a number: a vision transformer")
    return ModelConfig(
        id="clip",
        vision=VisionConfig(
            image_size=_one_side(part, "image_size"),
            patch_size=vision["patch_size"],
            width=vision["width"],
            depth=vision["layers"],
            num_heads=vision["width"] // vision["head_width"],
            mlp_width=int(vision["width"] * vision["mlp_ratio"]),
            activation=_activation(model),
            has_rope=False,
            pooling="class_token",
        ),
        text=_text(model),
        embed_dim=model.fields["embed_dim"],
    )


def _text(model: _Part) -> TextConfig:
    part = _Part("model_cfg.text_cfg", model.fields["text_cfg"])
    part.require(_FIXED_TEXT)
    part.refuse_unknown({*_TEXT_DEFAULTS, *_FIXED_TEXT, *_FREE_TEXT})
    text = {**_TEXT_DEFAULTS, **part.fields}
    return TextConfig(
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        width=text["width"],
        depth=text["layers"],
        num_heads=text["heads"],
        mlp_width=int(text["width"] * text["mlp_ratio"]),
        activation=_activation(model),
    )


def _check_vocabulary(model: _Part) -> None:
    part = _Part("model_cfg.text_cfg", model.fields.get("text_cfg", {}))
    named = part.fields.get("hf_tokenizer_name")
    if named and not str(named).startswith(_CLIP_VOCABULARIES):
        raise part.refuse("hf_tokenizer_name", "CLIP's vocabulary, or a tokenizer.json beside it")


def _activation(model: _Part) -> Activation:
    return "quick_gelu" if model.fields.get("quick_gelu") else "gelu"


def _image(fields: Mapping[str, Any], side: int) -> ImageConfig:
    """Read the preprocessing; null and absent mean open_clip's own default, as there.

    So do 0, "" and [] in fields that its `image_transform` reads with `or`.
    """
    given = {
        field: value
        for field, value in fields.items()
        if value or (value is not None and field not in _DEFAULT_IF_FALSE)
    }
    part = _Part("preprocess_cfg", {**_PREPROCESS_DEFAULTS, **given})
    part.require({"mode": ("RGB",)})
    if "size" in part.fields and _one_side(part, "size") != side:
        raise part.refuse("size", f"{side}, the model's image_size")
    for field, choices in (("resize_mode", _RESIZES), ("interpolation", _INTERPOLATIONS)):
        if part.fields[field] not in choices:
            raise part.refuse(field, " or ".join(map(repr, choices)))
    return ImageConfig(
        resize=_RESIZES[part.fields["resize_mode"]],
        interpolation=_INTERPOLATIONS[part.fields["interpolation"]],
        mean=_three(part, "mean"),
        std=_three(part, "std"),
    )


def _three(part: _Part, field: str) -> tuple[float, float, float]:
    """Return a value for each channel; one number counts for all of them."""
    value = part.fields[field]
    try:
        listed = [value] * 3 if isinstance(value, int | float) else value
        red, green, blue = (float(number) for number in listed)
    except (TypeError, ValueError) as err:
        raise part.refuse(field, "three numbers") from err
    values = (red, green, blue)
    if not all(map(math.isfinite, values)) or (field == "std" and min(values) <= 0):
        raise part.refuse(field, "finite numbers" + (" above 0" if field == "std" else ""))
    return values


def _one_side(part: _Part, field: str) -> int:
    size = part.fields[field]
    sides = [size] if isinstance(size, int) else list(size)
    if len(set(sides)) != 1:
        raise part.refuse(field, "a square")
    return int(sides[0])


def parse_timm(data: Mapping[str, Any]) -> ModelEntry | None:
    """Return the registered model of a parsed config.json; None where it is of no such model.

    Raises:
        CheckpointError: the file does not say what timm publishes.
    """
    published, arguments = data.get("pretrained_cfg") or {}, data.get("model_args") or {}
    if not isinstance(published, Mapping) or not isinstance(arguments, Mapping):
        return None
    try:
        entry = find(f"timm/{data['architecture']}.{published.get('tag') or 'fb'}")
    except (KeyError, UnknownModelError):
        return None
    side = entry.config.vision.image_size
    expected: dict[str, tuple[Any, ...]] = {
        "mean": (list(entry.config.image.mean),),
        "std": (list(entry.config.image.std),),
        "interpolation": ("bicubic", "bilinear"),
        "input_size": ([_CHANNELS, side, side],),
        "crop_pct": (1.0,),
    }
    for field, values in expected.items():
        if field in published and published[field] not in values:
            raise _refused(f"pretrained_cfg.{field}", published[field], values)
    # What timm writes of every model that it saves; other arguments make another tower.
    num_classes = entry.config.embed_dim or 0
    pools = ("map",) if entry.config.vision.pooling == "attention" else _POOLS_WITHOUT_WEIGHTS
    saved: dict[str, tuple[Any, ...]] = {
        "img_size": (side, [side, side]),
        "in_chans": (_CHANNELS,),
        "num_classes": (num_classes,),
        "global_pool": pools,
    }
    for field, value in arguments.items():
        if value not in saved.get(field, ()):
            raise _refused(f"model_args.{field}", value, saved.get(field, ("none",)))
    for field in ("num_classes", "global_pool"):
        if field in data and data[field] not in saved[field]:
            raise _refused(field, data[field], saved[field])
    return entry


def _refused(field: str, value: object, values: tuple[Any, ...]) -> CheckpointError:
    return CheckpointError(
        f"config.json: {field} is {value!r}; timm publishes {' or '.join(map(repr, values))}, and "
        "nothing else can be opened here. Use timm, or give the weights' path with model= to "
        "open them as the registered model"
    )
