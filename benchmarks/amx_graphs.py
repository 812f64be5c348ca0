"""The graphs that `amx.py` measures: today's, and the former one to compare it with.

The former graph has one product for queries, keys and values, and norms with weights of their own.
"""

from __future__ import annotations

from pathlib import Path

import openvino as ov
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception_encoder.backends.graph_cache import GraphCache
from perception_encoder.backends.openvino_graphs import build_random_graphs
from perception_encoder.backends.openvino_write import trace_graph
from perception_encoder.backends.torch_devices import copy_sharing_weights
from perception_encoder.checkpoints.load import random_model
from perception_encoder.model.blocks import Block, Rotation, SelfAttention, rope_table
from perception_encoder.model.dual_encoder import VisionGraph
from perception_encoder.registry import find
from perception_encoder.types import Precision


def graph_file(work: Path, model: str, precision: Precision, part: str = "image") -> Path:
    """A graph as this package caches it."""
    graphs, _ = build_random_graphs(find(model).config, GraphCache(work / "graphs"), precision)
    path, _ = graphs.opened(part, _is_file)
    return path


def _is_file(source: Path | ov.Model) -> Path:
    assert isinstance(source, Path)
    return source


def former_file(work: Path, model: str) -> Path:
    """The graph of before, unless an earlier run has made it."""
    path = work / "former" / f"{model}.xml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        towers = copy_sharing_weights(random_model(find(model).config))
        vision = towers.vision.config
        angles = rope_table(
            vision.grid_size,
            vision.grid_size,
            vision.width // vision.num_heads,
            has_class_token=vision.has_class_token,
        )
        for block in towers.vision.blocks:
            assert isinstance(block, Block)
            block.attention = OneProduct(block.attention, angles)  # type: ignore[assignment]
        side = vision.image_size
        samples = {"pixels": torch.zeros(1, side, side, 3, dtype=torch.uint8)}
        whole = VisionGraph(towers)
        graph = trace_graph(whole, samples, {"pixels": [-1, side, side, 3]}, whole.output_names)
        ov.save_model(graph, path, compress_to_fp16=True)
    return path


class OneProduct(nn.Module):
    """`SelfAttention` with one product for queries, keys and values, and rotary pairs in halves."""

    def __init__(self, attention: SelfAttention, angles: Tensor) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.out = attention.out
        order = torch.cat([torch.arange(start, 2 * angles.shape[-1], 2) for start in (0, 1)])
        self.qkv = nn.Linear(attention.qkv.in_features, attention.qkv.out_features)
        for name in ("weight", "bias"):
            rows = (
                getattr(attention.qkv, name).detach().unflatten(0, (3, self.num_heads, -1)).clone()
            )
            rows[:2] = rows[:2, :, order]
            setattr(self.qkv, name, nn.Parameter(rows.flatten(0, 2), requires_grad=False))
        self.register_buffer("cos", angles.cos().repeat(1, 2)[None, None])
        self.register_buffer("sin", angles.sin().repeat(1, 2)[None, None])

    def forward(self, x: Tensor, rotation: Rotation | None, *, is_causal: bool) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        del rotation  # the angles are built in
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self._turn(q), self._turn(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return self.out(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]

    def _turn(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return x * self.cos + turned * self.sin  # type: ignore[no-any-return, operator]
