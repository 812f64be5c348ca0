"""Counts what a model has to compute, from its numbers alone.

Counted are the multiplications and additions of matrix products, two operations for each pair, as
torch's `FlopCounterMode` does; norms, activations and softmax are left out. Causal attention counts
in full.
"""

from perception_encoder.registry.config import TextConfig, VisionConfig


def image_operations(config: VisionConfig, embed_dim: int | None) -> int:
    """Operations for one picture of the model's own size."""
    width, num_patches = config.width, config.grid_size**2
    num_tokens = num_patches + int(config.has_class_token)
    total = 2 * num_patches * 3 * config.patch_size**2 * width
    total += config.depth * _block(num_tokens, width, config.mlp_width)
    if config.pooling == "attention":
        probe = 2 * width * width
        keys_and_values = 2 * num_tokens * width * 2 * width
        attention = 4 * num_tokens * width
        out_and_mlp = 2 * width * width + 4 * width * 4 * width
        total += probe + keys_and_values + attention + out_and_mlp
    if config.pooling != "none":
        total += 2 * width * (embed_dim or 0)
    return total


def text_operations(config: TextConfig, embed_dim: int, num_tokens: int) -> int:
    """Operations for one text of so many tokens, begin and end tokens among them."""
    blocks = config.depth * _block(num_tokens, config.width, config.mlp_width)
    return blocks + 2 * config.width * embed_dim


def _block(num_tokens: int, width: int, mlp_width: int) -> int:
    """One transformer block: queries, keys, values and output; attention; the MLP."""
    projections = 4 * 2 * num_tokens * width * width
    attention = 2 * 2 * num_tokens**2 * width
    mlp = 2 * 2 * num_tokens * width * mlp_width
    return projections + attention + mlp
