"""Measures how far Meta's and open_clip's implementations of one model are apart on equal weights.

Maps Meta's formula-filled checkpoint to timm's and open_clip's names and embeds the same inputs
with both. It says whether the two naming variants of a golden file mean one model.
"""

import formula
import originals
import torch
from torch import Tensor
from torch.nn import functional

_RENAMES = (
    ("visual.", "visual.trunk."),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1", "patch_embed.proj"),
    ("transformer.resblocks.", "blocks."),
    ("attn_pool.attn.", "attn_pool."),
    ("attn_pool.layernorm", "attn_pool.norm"),
    ("attn_pool.probe", "attn_pool.latent"),
    ("ln_pre", "norm_pre"),
    ("ln_post", "norm"),
    ("ln_1", "norm1"),
    ("ln_2", "norm2"),
    ("ls_1.gamma", "gamma_1"),
    ("ls_2.gamma", "gamma_2"),
    ("in_proj_", "qkv."),
    ("out_proj", "proj"),
    ("c_fc", "fc1"),
    ("c_proj", "fc2"),
)


def measure() -> dict[str, object]:
    """Largest difference of unit vectors (or features), Meta's model against open_clip's."""
    names = [name for name in originals.PE_MODELS if "shrunken" in name or "T16" in name]
    return {name: difference(originals.PE_MODELS[name]) for name in names}


@torch.inference_mode()
def difference(numbers: originals.Pe) -> dict[str, float]:
    """Compare one model built both ways from Meta's checkpoint."""
    meta, other = originals.build_meta(numbers), originals.build_open_clip(numbers)
    other.load_state_dict(to_open_clip(meta.state_dict()))
    size = numbers.image_size
    pixels = torch.from_numpy(formula.pixels(2, size, size))
    if numbers.text is None:
        return {"features": gap(meta(pixels), other.forward_features(pixels))}
    ids = torch.from_numpy(formula.token_ids(numbers.text.context_length))
    return {
        "image": gap(unit(meta.encode_image(pixels)), unit(other.encode_image(pixels))),
        "text": gap(unit(meta.encode_text(ids)), unit(other.encode_text(ids))),
    }


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Meta's checkpoint to open_clip's (timm's vision names)."""
    out: dict[str, Tensor] = {}
    vision_only = not any(key.startswith("visual.") for key in state)
    for key, tensor in state.items():
        if vision_only or key.startswith("visual."):
            out |= vision(key, tensor)
        else:
            out[key if key == "logit_scale" else f"text.{key}"] = tensor
    return out


def vision(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Rename one vision tensor; split the pool's fused projection; transpose the last one."""
    for old, new in _RENAMES:
        key = key.replace(old, new)
    if ".attn_pool.qkv." in key:
        width = tensor.shape[0] // 3
        return {key.replace("qkv", "q"): tensor[:width], key.replace("qkv", "kv"): tensor[width:]}
    if key == "visual.trunk.proj":
        bias = torch.zeros(tensor.shape[1])  # timm's head has a bias, Meta's projection has none
        return {"visual.trunk.head.weight": tensor.T, "visual.trunk.head.bias": bias}
    if key.endswith("cls_token"):
        return {key: tensor[None, None]}
    return {key: tensor[None] if key.endswith("pos_embed") else tensor}


def unit(vectors: Tensor) -> Tensor:
    """Unit rows."""
    return functional.normalize(vectors, dim=-1)


def gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())
