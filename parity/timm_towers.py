"""Records timm's vision-only PE-Core models with pool and projection: `make parity`.

timm publishes them as `timm/vit_pe_core_*.fb`; their weights here are made by formula under timm's
own names. Whole models give the image embeddings, `forward_features` the patches. `--live FOLDER`
also saves each real model as timm saves one for the hub, with its embeddings in two precisions,
for a comparison with ours on any weights.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import formula
import numpy as np
import timm
import torch
from record import formula_pixels, named, summary, unit_and_norm
from safetensors.numpy import save_file
from timm.models import save_for_hf
from torch import nn

FILE = "timm"
# Real shapes, and the traits of the larger ones (patches of 14, with and without a class token).
MODELS: dict[str, dict[str, Any]] = {
    "vit_pe_core_tiny_patch16_384": {},
    "vit_pe_core_large_patch14_336": {
        "img_size": 112,
        "embed_dim": 128,
        "depth": 3,
        "num_heads": 2,
        "num_classes": 96,
        "ref_feat_shape": (8, 8),
    },
    "vit_pe_core_gigantic_patch14_448": {
        "img_size": 112,
        "embed_dim": 384,
        "depth": 3,
        "num_heads": 4,
        "num_classes": 64,
        "ref_feat_shape": (8, 8),
    },
}
LIVE = (
    "vit_pe_core_tiny_patch16_384",
    "vit_pe_core_small_patch16_384",
    "vit_pe_core_base_patch16_224",
)

logger = logging.getLogger("parity")


def build(name: str, changes: dict[str, Any]) -> nn.Module:
    """Build a model of timm's, and fill it by formula."""
    model = timm.create_model(name, **changes).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    state = formula.formula_state(shapes)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    return model


@torch.inference_mode()
def record() -> None:
    """Record every model into one file."""
    arrays: dict[str, np.ndarray] = {}
    header: dict[str, Any] = {"timm": timm.__version__, "models": {}}
    for name, changes in MODELS.items():
        model = build(name, changes)
        size = model.patch_embed.img_size[0]
        pixels = formula_pixels(size, size)
        outputs = unit_and_norm("image", model(pixels))
        outputs |= summary("features", model.forward_features(pixels)[:, model.num_prefix_tokens :])
        arrays |= named(name, outputs)
        keys = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        header["models"][name] = {"keys": keys, "arguments": changes}
        logger.info("%s recorded", name)
    path = formula.GOLDEN / f"{FILE}.npz"
    np.savez_compressed(path, header=np.array(json.dumps(header)), **arrays)


@torch.inference_mode()
def save_live(folder: Path) -> None:
    """Save real models by timm, with the embeddings of two images."""
    for name in LIVE:
        model = build(name, {})
        size = model.patch_embed.img_size[0]
        pixels = formula_pixels(size, size)
        save_for_hf(model, folder / name, safe_serialization=True)
        outputs = {"pixels": pixels, "fp32": model(pixels)}
        outputs["bf16"] = model.to(torch.bfloat16)(pixels.to(torch.bfloat16)).float()
        arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in outputs.items()}
        save_file(arrays, folder / f"{name}.outputs.safetensors")
        logger.info("%s saved", name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--live", type=Path)
    folder = parser.parse_args().live
    record()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save_live(folder)
