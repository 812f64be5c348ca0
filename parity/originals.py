"""Builds the original implementations and fills them by formula.

The originals are Meta's `core/vision_encoder` (as vendored by the `inference-models` package), and
open_clip with timm. Their code is imported from the installed packages, never copied. Knows nothing
about our own package, or about what is recorded.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import formula
import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP
from torch import nn

Keys = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Text:
    """Numbers of one text tower."""

    width: int
    layers: int
    heads: int
    context_length: int


@dataclass(frozen=True, slots=True)
class Pe:
    """Numbers of one PE model, in Meta's words; `text` is None for the vision-only families."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    output_dim: int | None
    text: Text | None = None
    mlp_ratio: float = 4.0
    use_cls_token: bool = True
    use_ln_post: bool = True
    ls_init_value: float | None = None
    open_clip_name: str | None = None
    timm_name: str | None = None

    @property
    def pool_type(self) -> str:
        """Meta pools in PE-Core only, which is also the only family with a projection."""
        return "none" if self.output_dim is None else "attn"


_SMALL_TEXT = Text(width=512, layers=12, heads=8, context_length=32)
_BASE_TEXT = Text(width=1024, layers=24, heads=16, context_length=32)
# G14 but for width, depth and image: no class token, so rope counts from 0; head width 96;
# MLP 8960/1536.
_G14_TRAITS: dict[str, Any] = {
    "patch_size": 14,
    "image_size": 112,
    "mlp_ratio": 8960 / 1536,
    "use_cls_token": False,
}

PE_MODELS: dict[str, Pe] = {
    "PE-Core-T16-384": Pe(384, 16, 192, 12, 3, 512, _SMALL_TEXT, open_clip_name="PE-Core-T-16-384"),
    "PE-Core-S16-384": Pe(384, 16, 384, 12, 6, 512, _SMALL_TEXT, open_clip_name="PE-Core-S-16-384"),
    "PE-Core-B16-224": Pe(224, 16, 768, 12, 12, 1024, _BASE_TEXT, open_clip_name="PE-Core-B-16"),
    "PE-Core-L14-336": Pe(
        336, 14, 1024, 24, 16, 1024, _BASE_TEXT, open_clip_name="PE-Core-L-14-336"
    ),
    "PE-Core-G14-shrunken": Pe(
        width=384,
        layers=3,
        heads=4,
        output_dim=64,
        text=Text(width=128, layers=2, heads=2, context_length=72),
        timm_name="vit_pe_core_gigantic_patch14_448",
        **_G14_TRAITS,
    ),
    "PE-Spatial-G14-shrunken": Pe(
        width=192,
        layers=3,
        heads=2,
        output_dim=None,
        use_ln_post=False,
        ls_init_value=0.1,
        timm_name="vit_pe_spatial_gigantic_patch14_448",
        **_G14_TRAITS,
    ),
    "PE-Spatial-B16-shrunken": Pe(
        128, 16, 128, 3, 2, None, use_ln_post=False, timm_name="vit_pe_spatial_base_patch16_512"
    ),
    "PE-Lang-L14-shrunken": Pe(
        112,
        14,
        128,
        2,
        2,
        None,
        use_ln_post=False,
        ls_init_value=0.1,
        timm_name="vit_pe_lang_large_patch14_448",
    ),
}

# OpenAI's weights need QuickGELU, which open_clip ties to these names.
CLIP_MODELS: dict[str, str] = {
    "CLIP-ViT-B-32": "ViT-B-32-quickgelu",
    "CLIP-ViT-B-16": "ViT-B-16-quickgelu",
    "CLIP-ViT-L-14": "ViT-L-14-quickgelu",
    "CLIP-ViT-L-14-336": "ViT-L-14-336-quickgelu",
}


# Where the originals come from, for the manifest.
SOURCES: dict[str, str] = {
    "meta": "facebookresearch/perception_models core/vision_encoder (Apache-2.0), the copy in the "
    "PyPI wheel inference-models, folder models/perception_encoder/vision_encoder",
    "openclip": "PyPI open_clip_torch (MIT), image towers of PE from PyPI timm (Apache-2.0)",
}


_PACKAGES = (
    "open_clip_torch",
    "timm",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "einops",
    "inference-models",
)
_META_NUMBERS = (
    "image_size",
    "patch_size",
    "width",
    "layers",
    "heads",
    "mlp_ratio",
    "output_dim",
    "use_cls_token",
    "use_ln_post",
    "ls_init_value",
    "pool_type",
)


@functools.cache
def meta_modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import Meta's `pe`, `config` and `rope` without the package around them.

    inference-models imports many heavy dependencies at its top; its copy of Meta's code needs only
    a logger and two settings from it. Empty stand-ins for the packages above it are enough.
    """
    spec = importlib.util.find_spec("inference_models")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("inference-models is not installed: see parity/README.md")
    root = spec.submodule_search_locations[0]
    for name in ("", ".models", ".models.perception_encoder", ".logger", ".configuration"):
        module = ModuleType(f"inference_models{name}")
        module.__path__ = [root + name.replace(".", "/")]
        sys.modules.setdefault(module.__name__, module)
    sys.modules["inference_models.logger"].LOGGER = logging.getLogger("meta")  # type: ignore[attr-defined]
    settings: Any = sys.modules["inference_models.configuration"]
    settings.HF_HUB_CACHE, settings.OFFLINE_MODE = "", True
    base = "inference_models.models.perception_encoder.vision_encoder"
    pe, config, rope = (importlib.import_module(f"{base}.{n}") for n in ("pe", "config", "rope"))
    return pe, config, rope


def build_meta(model: Pe) -> nn.Module:
    """Build Meta's model: `CLIP`, or the bare `VisionTransformer` of the vision-only families."""
    pe, config, _ = meta_modules()
    numbers = {name: getattr(model, name) for name in _META_NUMBERS}
    if model.text is None:
        return filled(pe.VisionTransformer(**numbers))
    text = config.PETextConfig(
        context_length=model.text.context_length,
        width=model.text.width,
        heads=model.text.heads,
        layers=model.text.layers,
        output_dim=model.output_dim,
    )
    return filled(pe.CLIP(config.PEConfig(**numbers), text))


def build_open_clip(model: Pe) -> nn.Module:
    """Build open_clip's PE model, or timm's tower alone for the vision-only families."""
    if model.open_clip_name is not None:
        return filled(open_clip.create_model(model.open_clip_name))
    grid = model.image_size // model.patch_size
    tower = timm.create_model(
        model.timm_name,
        img_size=model.image_size,
        ref_feat_shape=(grid, grid),
        embed_dim=model.width,
        depth=model.layers,
        num_heads=model.heads,
        num_classes=model.output_dim or 0,
    )
    if model.text is None:
        return filled(tower)
    shell = CustomTextCLIP(
        embed_dim=model.output_dim,
        vision_cfg={
            "image_size": 384,
            "timm_model_name": "vit_pe_core_tiny_patch16_384",
            "timm_pool": "map",
            "timm_proj": None,
        },
        text_cfg={
            "context_length": model.text.context_length,
            "width": model.text.width,
            "heads": model.text.heads,
            "layers": model.text.layers,
        },
    )
    shell.visual.trunk = (
        tower  # open_clip passes no sizes on to timm, so the shrunken tower goes in after
    )
    return filled(shell)


def build_clip(name: str) -> nn.Module:
    """Build one of open_clip's CLIP models."""
    return filled(open_clip.create_model(name))


def keys_of(model: nn.Module) -> Keys:
    """List a model's checkpoint keys and shapes."""
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """Fill every tensor of the checkpoint by formula under its own key, in place."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.from_numpy(formula.fill(name, tuple(tensor.shape))))
    return model.eval()


def versions() -> dict[str, str]:
    """Name and version of everything the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": sys.version.split()[0], **found}
