"""Attention in ONNX's own operators, which engines compute at once.

Traced as it stands, attention becomes some thirty small operators a block, which keep every score
in memory and take 15 to 20 % of a small tower's time. It is the same function of the same weights:
`torch.onnx.ops` computes it in torch too, and every exported file is compared with the towers.
"""

from torch import Tensor, nn
from torch.onnx import ops

from perception_encoder.backends.shared_weights import copy_sharing_weights
from perception_encoder.model import DualEncoder
from perception_encoder.model.blocks import Block, Rotation, SelfAttention


class OnnxAttention(nn.Module):
    """`SelfAttention` as RotaryEmbedding and Attention of opset 23; shares its weights."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.out = attention.out

    def forward(self, x: Tensor, rotation: Rotation | None, *, is_causal: bool) -> Tensor:
        """(B, N, D) to (B, N, D); see `SelfAttention.forward`."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, N, D) each
        if rotation is not None:
            cos, sin = (table.expand(x.shape[0], -1, -1) for table in rotation)  # (B, N, C/2) each
            q, k = (
                ops.rotary_embedding(part, cos, sin, interleaved=True, num_heads=self.num_heads)
                for part in (q, k)
            )
        mixed, *_ = ops.attention(
            q, k, v, is_causal=is_causal, q_num_heads=self.num_heads, kv_num_heads=self.num_heads
        )
        return self.out(mixed)  # type: ignore[no-any-return]


def with_onnx_attention(model: DualEncoder) -> DualEncoder:
    """Return the model with every block's attention so; the weights are shared, not copied."""
    changed = copy_sharing_weights(model)
    for module in changed.modules():
        if isinstance(module, Block):
            attention = module.attention
            module.attention = OnnxAttention(attention)  # type: ignore[assignment]
    return changed
