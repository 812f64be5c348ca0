"""Transformer blocks, and two-dimensional rotary positions as pure functions of the patch grid.

Rope reproduces perception_models core/vision_encoder/rope.py (`Rope2D`, `RotaryEmbedding` in "lang"
mode): half of each head rotates by the column (x), half by the row (y), x first; channels rotate in
interleaved pairs (0, 1), (2, 3), …. Nothing is cached, so threads can use any grid.
"""

from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_THETA: Final = 10_000.0
NORM_EPS: Final = 1e-5


def rope_table(
    grid_h: int,
    grid_w: int,
    head_dim: int,
    *,
    has_class_token: bool,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the angle of every channel pair at every token.

    Args:
        grid_h: patch rows.
        grid_w: patch columns.
        head_dim: channels of one attention head; a multiple of 4.
        has_class_token: prepend an unrotated class token; patch positions then start at 1
            rather than 0 (position 0 is the class token's).
        device: where it is computed, so that a GPU need not wait for a copy.

    Returns:
        (N, head_dim / 2) float32, radians; N = grid_h · grid_w (+ 1), row-major.
    """
    axis_pairs = head_dim // 4
    count = partial(torch.arange, dtype=torch.float32, device=device)
    frequencies = _THETA ** (-count(axis_pairs) / axis_pairs)
    first = 1 if has_class_token else 0
    rows = count(first, first + grid_h)[:, None] * frequencies
    columns = count(first, first + grid_w)[:, None] * frequencies
    angles = torch.cat(
        [
            columns[None, :, :].expand(grid_h, grid_w, axis_pairs),
            rows[:, None, :].expand(grid_h, grid_w, axis_pairs),
        ],
        dim=-1,
    ).reshape(grid_h * grid_w, 2 * axis_pairs)  # (h·w, C/2)
    if has_class_token:
        angles = torch.cat([torch.zeros(1, 2 * axis_pairs, device=device), angles])
    return angles


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each channel pair of `x` by its token's angle.

    Args:
        x: (…, C) queries and keys.
        cos: cosine of `rope_table`, float32, of a shape that broadcasts to (…, C/2).
        sin: its sine.

    Returns:
        (…, C), the dtype of `x`; computed in float32.
    """
    if _is_eager(x):
        # A pair is a complex number, and the angle another: a sixth of the time on a CPU. GPUs have
        # a kernel for it, too. Compilers and exporters know no complex numbers.
        pairs = torch.view_as_complex(_paired(x))  # (…, C/2)
        return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2).to(x.dtype)
    even, odd = _paired(x).unbind(-1)  # (…, C/2) each
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _paired(x: Tensor) -> Tensor:
    return x.float().reshape(*x.shape[:-1], x.shape[-1] // 2, 2)


def _is_eager(x: Tensor) -> bool:
    return (
        x.device.type in ("cpu", "cuda")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


class Rotation(NamedTuple):
    """Cosine and sine of `rope_table`, (N, C/2) float32 each."""

    cos: Tensor
    sin: Tensor


class QuickGELU(nn.Module):
    """OpenAI CLIP's approximation of GELU: x · sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return x * torch.sigmoid(1.702 * x)


def activation_module(name: str) -> nn.Module:
    """Return the activation of that registry name: "gelu" (exact) or "quick_gelu"."""
    return QuickGELU() if name == "quick_gelu" else nn.GELU()


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence with itself; queries and keys turn by `rotation`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation | None, *, is_causal: bool) -> Tensor:
        """(B, N, D) to (B, N, D); causal attention sees no later token."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, M, C)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]  # (B, N, 2, M, C) and (B, N, M, C)
        if rotation is not None:
            qk = rotate(qk, *(table[:, None, None] for table in rotation))
        q, k = qk.permute(2, 0, 3, 1, 4).unbind(0)  # (B, M, N, C) each
        mixed = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=is_causal)
        return self.out(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, mlp_width: int, activation: str) -> None:
        super().__init__()
        self.up = nn.Linear(width, mlp_width)
        self.activation = activation_module(activation)
        self.down = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP; both scaled where `layer_scale` is set."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        activation: str,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, mlp_width, activation)
        if layer_scale is not None:
            self.scale1 = nn.Parameter(torch.full((width,), layer_scale))
            self.scale2 = nn.Parameter(torch.full((width,), layer_scale))
        self.has_layer_scale = layer_scale is not None

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, *, is_causal: bool = False
    ) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        attended: Tensor = self.attention(self.norm1(x), rotation, is_causal=is_causal)
        x = x + (attended * self.scale1 if self.has_layer_scale else attended)
        transformed: Tensor = self.mlp(self.norm2(x))
        return x + (transformed * self.scale2 if self.has_layer_scale else transformed)


class AttentionPool(nn.Module):
    """One learned probe attends over all tokens, followed by a residual MLP.

    As perception_models core/vision_encoder/pe.py `AttentionPooling`: the probe itself is not
    added back, only the attended value is.
    """

    def __init__(self, width: int, num_heads: int, activation: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.probe = nn.Parameter(torch.empty(width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, 4 * width, activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, D)."""
        batch = x.shape[0]
        q = self.q(self.probe).unflatten(-1, (self.num_heads, 1, -1))  # (M, 1, C)
        k, v = (
            self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )  # (B, M, N, C) each
        pooled = F.scaled_dot_product_attention(q.expand(batch, -1, -1, -1), k, v)  # (B, M, 1, C)
        x = self.out(pooled.flatten(1))  # (B, D)
        transformed: Tensor = self.mlp(self.norm(x))
        return x + transformed
