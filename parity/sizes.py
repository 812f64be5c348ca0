"""Records patch features of the originals at other sizes than a model's own: `make parity`.

Meta's code and timm get the same weights, Meta's by formula. Left to itself, timm rescales rope to
the pretraining grid and resizes positions bicubically; here it is built for the grid
(`ref_feat_shape`) and gets positions that were resized as Meta's code does, so that its own rope,
blocks and norms are a second opinion at each size. What its defaults would give is measured too.
"""

import logging
import math

import agree
import formula
import numpy as np
import originals
import timm
import torch
from record import formula_pixels, summary
from torch import Tensor, nn
from torch.nn import functional

FILE = "sizes"
MODELS = (
    "PE-Core-T16-384",
    "PE-Core-G14-shrunken",
    "PE-Spatial-G14-shrunken",
    "PE-Spatial-B16-shrunken",
)
# Rows and columns, in terms of the model's own: smaller, larger, and neither square nor a multiple.
SHARES = ((0.5, 0.5), (1.5, 1.5), (0.7, 2.2))

logger = logging.getLogger("parity")


@torch.inference_mode()
def record() -> dict[str, np.ndarray]:
    """Compute both originals' features at three sizes of each model."""
    arrays: dict[str, np.ndarray] = {}
    for name in MODELS:
        numbers = originals.PE_MODELS[name]
        model = originals.build_meta(numbers)
        tower = model if numbers.text is None else model.visual
        native = numbers.image_size // numbers.patch_size
        for share in SHARES:
            grid = tuple(max(1, math.floor(native * each)) for each in share)
            pixels = formula_pixels(*(side * numbers.patch_size for side in grid))
            meta = tower.forward_features(pixels, norm=True, strip_cls_token=True)
            other = timm_features(numbers, model.state_dict(), grid, pixels, as_meta=True)
            default = timm_features(numbers, model.state_dict(), grid, pixels, as_meta=False)
            label = f"{name}/grid_{grid[0]}x{grid[1]}/features"
            arrays |= {f"meta/{key}": array for key, array in summary(label, meta).items()}
            arrays |= {f"timm/{key}": array for key, array in summary(label, other).items()}
            cosines = functional.cosine_similarity(meta, default, dim=-1)
            arrays[f"timm_defaults/{label}/cosines"] = cosines.quantile(
                torch.tensor([0.0, 0.5])
            ).numpy()
            logger.info("%s: timm differs by %.1e", label, (meta - other).abs().max())
    return arrays


def timm_features(
    numbers: originals.Pe,
    state: dict[str, Tensor],
    grid: tuple[int, int],
    pixels: Tensor,
    *,
    as_meta: bool,
) -> Tensor:
    """Features of timm's tower of that grid, without the class token."""
    native = numbers.image_size // numbers.patch_size
    first = int(numbers.use_cls_token)
    name = numbers.timm_name or "vit_pe_core_tiny_patch16_384"
    tower: nn.Module = timm.create_model(
        name,
        img_size=tuple(side * numbers.patch_size for side in grid),
        ref_feat_shape=grid if as_meta else (native, native),
        embed_dim=numbers.width,
        depth=numbers.layers,
        num_heads=numbers.heads,
        num_classes=numbers.output_dim or 0,
    ).eval()
    renamed = agree.to_open_clip(state)
    prefix = "visual.trunk."
    if numbers.text is not None:
        renamed = {k.removeprefix(prefix): v for k, v in renamed.items() if k.startswith(prefix)}
    renamed["pos_embed"] = resized(renamed["pos_embed"], native, grid, first, as_meta=as_meta)
    tower.load_state_dict(renamed)
    return tower.forward_features(pixels)[:, first:]


def resized(
    positions: Tensor, native: int, grid: tuple[int, int], first: int, *, as_meta: bool
) -> Tensor:
    """Positions (1, N, D) for another grid, bilinear as Meta's or as timm's `resample`."""
    if not as_meta:
        from timm.layers import resample_abs_pos_embed

        return resample_abs_pos_embed(
            positions, list(grid), [native, native], num_prefix_tokens=first
        )
    table = positions[0, first:].unflatten(0, (native, native)).permute(2, 0, 1)[None]
    table = functional.interpolate(table, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :first], table.flatten(2).transpose(1, 2)], dim=1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    np.savez_compressed(formula.GOLDEN / f"{FILE}.npz", header=np.array("{}"), **record())
