"""Records LoRA adapters that PEFT trained on the originals, and what the merged models compute.

The weights are by formula, the adapters random. Each goes to a folder of `tests/golden/adapters`,
as PEFT saved it, with the embeddings of PEFT's own merge in `outputs.npz`.

Run with PYTHONPATH=tests:src, in the environment of `parity/README.md` with `peft` 0.21.2 added.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import formula
import numpy as np
import originals
import peft
import torch
from torch import nn

SHELF = formula.GOLDEN / "adapters"
PE = originals.Pe(
    image_size=48,
    patch_size=16,
    width=32,
    layers=2,
    heads=2,
    output_dim=24,
    text=originals.Text(width=32, layers=2, heads=2, context_length=16),
    timm_name="vit_pe_core_tiny_patch16_384",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter: whose model it is trained on, its settings, and the part of the model."""

    build: Callable[[], nn.Module]
    settings: dict[str, Any] = field(default_factory=dict)
    part: str | None = None


def build_open_clip() -> nn.Module:
    """Build open_clip's model."""
    return originals.build_open_clip(PE)


def build_meta() -> nn.Module:
    """Build Meta's model."""
    return originals.build_meta(PE)


def build_ours() -> nn.Module:
    """Build our own model with open_clip's weights."""
    from perception_encoder.checkpoints.load import build_from_tensors
    from perception_encoder.registry import ModelConfig, TextConfig, VisionConfig

    config = ModelConfig(
        id="tiny",
        vision=VisionConfig(
            image_size=48, patch_size=16, width=32, depth=2, num_heads=2, mlp_width=128
        ),
        text=TextConfig(
            context_length=16, vocab_size=49_408, width=32, depth=2, num_heads=2, mlp_width=128
        ),
        embed_dim=24,
    )
    return build_from_tensors(config, build_open_clip().state_dict())


CASES = {
    "open-clip": Case(
        build_open_clip,
        {
            "target_modules": r".*(qkv|fc1|attn_pool\.q|resblocks\.\d\.attn|c_fc)",
            "lora_alpha": 6,
        },
    ),
    "open-clip-patterns": Case(
        build_open_clip,
        {
            "target_modules": ["qkv", "proj", "c_fc", "c_proj"],
            "use_rslora": True,
            "rank_pattern": {"c_fc": 3},
            "alpha_pattern": {"blocks.1.attn.qkv": 9, "c_proj": 1},
            "bias": "all",
            "modules_to_save": ["ln_final", "trunk.norm"],
        },
    ),
    "open-clip-dora": Case(
        build_open_clip, {"target_modules": ["qkv", "fc1", "c_fc", "c_proj"], "use_dora": True}
    ),
    "meta": Case(
        build_meta,
        {"target_modules": ["c_fc", "c_proj", "conv1"], "fan_in_fan_out": True},
    ),
    "meta-vision": Case(
        build_meta,
        {"target_modules": ["conv1", "c_proj", "attn_pool.attn"], "bias": "lora_only"},
        part="visual",
    ),
    "ours": Case(
        build_ours,
        {"target_modules": ["attention.qkv", "up", "vision.projection"], "lora_bias": False},
    ),
    "ours-bias": Case(build_ours, {"target_modules": ["up", "pool.kv"], "lora_bias": True}),
}


@torch.no_grad()
def record(name: str, case: Case) -> None:
    """Make an adapter of random numbers, save it, merge it, and record the embeddings."""
    torch.manual_seed(len(name))
    model = case.build()
    trained = getattr(model, case.part) if case.part else model
    config = peft.LoraConfig(r=2, init_lora_weights=False, **case.settings)
    wrapped = peft.get_peft_model(trained, config)
    for key, parameter in wrapped.named_parameters():
        is_value = parameter.requires_grad  # biases, and modules that are saved whole
        if "lora_" in key and "magnitude" not in key:
            parameter.normal_(std=0.3)
        elif is_value:
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
    folder = SHELF / name
    shutil.rmtree(folder, ignore_errors=True)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    trained_outputs = embed(model, case, wrapped.base_model.model)
    images, texts = embed(model, case, wrapped.merge_and_unload())
    for before, after in zip(trained_outputs, (images, texts), strict=True):
        torch.testing.assert_close(before, after, atol=1e-3, rtol=1e-3)
    np.savez(folder / "outputs.npz", images=images.numpy(), texts=texts.numpy())


def embed(whole: nn.Module, case: Case, trained: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute with the trained part in its place."""
    model: Any = trained
    if case.part:
        setattr(whole, case.part, trained)
        model = whole
    images = model.eval().encode_image(torch.from_numpy(formula.pixels(2, 48, 48)))
    return images, model.encode_text(torch.from_numpy(formula.token_ids(16)))


def main() -> None:
    """Record all adapters, and the names of both originals' checkpoints."""
    for name, case in CASES.items():
        record(name, case)
    keys = {
        "meta": originals.keys_of(build_meta()),
        "open-clip": originals.keys_of(build_open_clip()),
    }
    (SHELF / "keys.json").write_text(json.dumps(keys, indent=1) + "\n")


if __name__ == "__main__":
    main()
