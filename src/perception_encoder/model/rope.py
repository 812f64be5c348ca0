"""Two-dimensional rotary positions, as pure functions of the patch grid.

Reproduces perception_models core/vision_encoder/rope.py (`Rope2D`, `RotaryEmbedding` in "lang"
mode): half of each head turns by the column (x), half by the row (y), x first; channels turn in
interleaved pairs (0, 1), (2, 3), …. Nothing is cached or stored, so any thread may call any grid.
"""

from functools import partial

import torch
from torch import Tensor

_THETA = 10_000.0


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
