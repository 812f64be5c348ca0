"""The OpenVINO graph of patch features at any size.

A traced graph has the positions of one grid built in. This one takes what depends on the grid as
inputs: weights that resize the position embeddings, and the rotary angles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perception_encoder.backends.openvino_graphs import grid_inputs
from perception_encoder.backends.openvino_write import arrange_vision, trace_graph
from perception_encoder.model import DualEncoder
from perception_encoder.model.blocks import Rotation
from perception_encoder.model.dual_encoder import Normalize

if TYPE_CHECKING:
    import openvino as ov


def build_dense(model: DualEncoder, layer: int) -> ov.Model:
    """Make the graph whose `features` (B, h·w, D) are those after a block.

    Its inputs are `pixels` (B, H, W, 3) uint8, RGB, and the arrays of `grid_inputs`, in this order.
    B, H and W are free.

    Args:
        model: in float32, on the CPU; it stays as it is.
        layer: counted from 0.
    """
    vision = model.config.vision
    grid = (vision.grid_size + 1, vision.grid_size)  # no axis is taken for another while tracing
    others = {name: torch.from_numpy(array) for name, array in grid_inputs(vision, *grid).items()}
    height, width = (count * vision.patch_size for count in grid)
    samples = {"pixels": torch.zeros(1, height, width, 3, dtype=torch.uint8), **others}
    shapes = {
        "pixels": [-1, -1, -1, 3],
        **{name: [-1, array.shape[1]] for name, array in others.items()},
    }
    return trace_graph(_DenseFeatures(model, layer), samples, shapes, ["features"])


class _DenseFeatures(nn.Module):
    grid: Tensor
    before: Tensor

    def __init__(self, model: DualEncoder, layer: int) -> None:
        super().__init__()
        self.vision = arrange_vision(model, is_grid_fixed=False).vision
        self.normalize = Normalize(model.config.image.mean, model.config.image.std)
        self.layer = layer
        positions = model.vision.position_embedding.detach()
        side, first = model.config.vision.grid_size, int(model.config.vision.has_class_token)
        self.register_buffer("before", positions[:first])
        self.register_buffer("grid", positions[first:].view(side, side, -1))

    def forward(self, pixels: Tensor, rows: Tensor, columns: Tensor, *angles: Tensor) -> Tensor:
        side, width = self.grid.shape[1:]
        by_rows = (rows @ self.grid.flatten(1)).reshape(-1, side, width)  # (h, w native, D)
        resized = (columns @ by_rows).flatten(0, 1)  # (h·w, D)
        tokens = self.vision.run_blocks(
            self.normalize(pixels),
            torch.cat([self.before, resized]),
            Rotation(*angles) if angles else None,
            self.layer + 1,
        )
        return self.vision.patches(tokens)
