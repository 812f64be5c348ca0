"""Tiny models, and their weights spelled as each public format spells them.

The spelling is written out here, tensor by tensor and in the other direction, so that it shares no
index with the code it tests. Sources: the state_dict of Meta's `CLIP` (perception_models
core/vision_encoder/pe.py), and of open_clip 3.3's PE-Core and CLIP models.
"""

from pathlib import Path

import torch
from torch import Tensor

from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.load import random_model
from perception_encoder.model import DualEncoder
from perception_encoder.registry import ImageConfig, ModelConfig, TextConfig, VisionConfig

State = dict[str, Tensor]

_TEXT = TextConfig(context_length=12, vocab_size=60, width=32, depth=2, num_heads=4, mlp_width=96)
_VISION = VisionConfig(image_size=32, patch_size=8, width=64, depth=2, num_heads=4, mlp_width=160)

CORE = ModelConfig(id="tiny/core", vision=_VISION, text=_TEXT, embed_dim=24)
CORE_WITHOUT_CLASS_TOKEN = ModelConfig(
    id="tiny/giant",
    vision=VisionConfig(
        image_size=28,
        patch_size=14,
        width=32,
        depth=3,
        num_heads=2,
        mlp_width=112,
        has_class_token=False,
    ),
    text=_TEXT,
    embed_dim=40,
)
CLIP = ModelConfig(
    id="tiny/clip",
    vision=VisionConfig(
        image_size=32,
        patch_size=16,
        width=48,
        depth=2,
        num_heads=3,
        mlp_width=192,
        activation="quick_gelu",
        has_rope=False,
        pooling="class_token",
    ),
    text=_TEXT,
    embed_dim=24,
    image=ImageConfig(resize="center_crop", interpolation="bicubic"),
)
LANG = ModelConfig(
    id="tiny/lang",
    vision=VisionConfig(
        image_size=32,
        patch_size=8,
        width=32,
        depth=2,
        num_heads=2,
        mlp_width=128,
        has_post_norm=False,
        layer_scale=0.1,
        pooling="none",
    ),
)


def state_of(model: DualEncoder) -> State:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def native(config: ModelConfig, seed: int = 0) -> State:
    return state_of(random_model(config, seed))


def checkpoint(config: ModelConfig, path: Path, *, ema: bool = True) -> Checkpoint:
    return Checkpoint(
        config=config,
        path=path,
        tokenizer=None,
        entry=None,
        preprocess=None,
        source="a test",
        ema=ema,
    )


def meta(state: State, prefix: str = "visual.") -> State:
    """Meta's names; also open_clip's for OpenAI CLIP. The prefix is absent in some vision files."""
    out: State = {}
    _openai_blocks(out, state, "vision.", prefix)
    out[prefix + "conv1.weight"] = state["vision.patch_embed.weight"]
    out[prefix + "positional_embedding"] = state["vision.position_embedding"]
    _layer(out, prefix + "ln_pre", state, "vision.pre_norm")
    if "vision.class_token" in state:
        out[prefix + "class_embedding"] = state["vision.class_token"]
    if "vision.post_norm.weight" in state:
        _layer(out, prefix + "ln_post", state, "vision.post_norm")
    if "vision.projection.weight" in state:
        out[prefix + "proj"] = state["vision.projection.weight"].T.contiguous()
    if "vision.pool.probe" in state:
        pool = prefix + "attn_pool."
        out[pool + "probe"] = state["vision.pool.probe"].reshape(1, 1, -1)
        for kind in ("weight", "bias"):
            out[pool + f"attn.in_proj_{kind}"] = torch.cat(
                [state[f"vision.pool.q.{kind}"], state[f"vision.pool.kv.{kind}"]]
            )
        _layer(out, pool + "attn.out_proj", state, "vision.pool.out")
        _layer(out, pool + "layernorm", state, "vision.pool.norm")
        _layer(out, pool + "mlp.c_fc", state, "vision.pool.mlp.up")
        _layer(out, pool + "mlp.c_proj", state, "vision.pool.mlp.down")
    _text(out, state, "")
    return out


def open_clip(state: State) -> State:
    """open_clip's names for PE-Core: timm's vision trunk, and OpenAI's text tower under `text.`."""
    out = {f"visual.trunk.{key}": tensor for key, tensor in timm(state).items()}
    _text(out, state, "text.")
    return out


def timm(state: State) -> State:
    """timm's names for the vision tower alone."""
    out = {
        "patch_embed.proj.weight": state["vision.patch_embed.weight"],
        "pos_embed": state["vision.position_embedding"][None],
    }
    _layer(out, "norm_pre", state, "vision.pre_norm")
    for i in _block_indices(state, "vision."):
        ours, theirs = f"vision.blocks.{i}.", f"blocks.{i}."
        _layer(out, theirs + "norm1", state, ours + "norm1")
        _layer(out, theirs + "attn.qkv", state, ours + "attention.qkv")
        _layer(out, theirs + "attn.proj", state, ours + "attention.out")
        _layer(out, theirs + "norm2", state, ours + "norm2")
        _layer(out, theirs + "mlp.fc1", state, ours + "mlp.up")
        _layer(out, theirs + "mlp.fc2", state, ours + "mlp.down")
        if ours + "scale1" in state:
            out[theirs + "gamma_1"] = state[ours + "scale1"]
            out[theirs + "gamma_2"] = state[ours + "scale2"]
    if "vision.class_token" in state:
        out["cls_token"] = state["vision.class_token"][None, None]
    if "vision.post_norm.weight" in state:
        _layer(out, "norm", state, "vision.post_norm")
    if "vision.projection.weight" in state:
        out["head.weight"] = state["vision.projection.weight"]
        out["head.bias"] = torch.zeros(len(out["head.weight"]))
    if "vision.pool.probe" in state:
        out["attn_pool.latent"] = state["vision.pool.probe"][None, None]
        _layer(out, "attn_pool.q", state, "vision.pool.q")
        _layer(out, "attn_pool.kv", state, "vision.pool.kv")
        _layer(out, "attn_pool.proj", state, "vision.pool.out")
        _layer(out, "attn_pool.norm", state, "vision.pool.norm")
        _layer(out, "attn_pool.mlp.fc1", state, "vision.pool.mlp.up")
        _layer(out, "attn_pool.mlp.fc2", state, "vision.pool.mlp.down")
    return out


def _text(out: State, state: State, prefix: str) -> None:
    if "logit_scale" not in state:
        return
    _openai_blocks(out, state, "text.", prefix)
    out["logit_scale"] = state["logit_scale"]
    out[prefix + "token_embedding.weight"] = state["text.token_embedding.weight"]
    out[prefix + "positional_embedding"] = state["text.position_embedding"]
    out[prefix + "text_projection"] = state["text.projection.weight"].T.contiguous()
    _layer(out, prefix + "ln_final", state, "text.final_norm")


def _openai_blocks(out: State, state: State, tower: str, prefix: str) -> None:
    for i in _block_indices(state, tower):
        ours, theirs = f"{tower}blocks.{i}.", f"{prefix}transformer.resblocks.{i}."
        _layer(out, theirs + "ln_1", state, ours + "norm1")
        out[theirs + "attn.in_proj_weight"] = state[ours + "attention.qkv.weight"]
        out[theirs + "attn.in_proj_bias"] = state[ours + "attention.qkv.bias"]
        _layer(out, theirs + "attn.out_proj", state, ours + "attention.out")
        _layer(out, theirs + "ln_2", state, ours + "norm2")
        _layer(out, theirs + "mlp.c_fc", state, ours + "mlp.up")
        _layer(out, theirs + "mlp.c_proj", state, ours + "mlp.down")
        if ours + "scale1" in state:
            out[theirs + "ls_1.gamma"] = state[ours + "scale1"]
            out[theirs + "ls_2.gamma"] = state[ours + "scale2"]


def _layer(out: State, theirs: str, state: State, ours: str) -> None:
    for kind in ("weight", "bias"):
        out[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]


def _block_indices(state: State, tower: str) -> list[int]:
    return sorted({int(key.split(".")[2]) for key in state if key.startswith(tower + "blocks.")})
