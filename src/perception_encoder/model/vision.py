"""The vision tower: pixels to one embedding or a grid of patch features.

One class serves PE-Core, PE-Spatial, PE-Lang and CLIP; `VisionConfig` holds the differences.
The order of steps is that of perception_models core/vision_encoder/pe.py `VisionTransformer`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception_encoder.model.blocks import NORM_EPS, AttentionPool, Block, Rotation, rope_table
from perception_encoder.registry.config import VisionConfig


class VisionTower(nn.Module):
    """A vision transformer over square patches."""

    def __init__(self, config: VisionConfig, embed_dim: int | None) -> None:
        super().__init__()
        self.config = config
        width = config.width
        num_positions = config.grid_size**2 + int(config.has_class_token)
        self.patch_embed = nn.Conv2d(
            3, width, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        if config.has_class_token:
            self.class_token = nn.Parameter(torch.zeros(width))
        self.position_embedding = nn.Parameter(torch.zeros(num_positions, width))
        self.pre_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_width, config.activation, config.layer_scale)
            for _ in range(config.depth)
        )
        self.post_norm = (
            nn.LayerNorm(width, eps=NORM_EPS) if config.has_post_norm else nn.Identity()
        )
        if config.pooling == "attention":
            self.pool = AttentionPool(width, config.pool_num_heads, config.activation)
        if config.pooling != "none":
            if embed_dim is None:
                raise ValueError("a tower that pools needs embed_dim")
            self.projection = nn.Linear(width, embed_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed a batch of prepared images.

        Args:
            pixels: (B, 3, H, W), RGB, normalized; H and W multiples of the patch size.

        Returns:
            (B, E), not normalized.

        Raises:
            ValueError: pixels has another shape, or this tower does not pool.
        """
        if self.config.pooling == "none":
            raise ValueError("this tower has patch features only; call `features`")
        return self.pooled(self.tokens(pixels, self.config.depth))

    def features(self, pixels: Tensor, *, layer: int = -1) -> Tensor:
        """Return the patch tokens after a block and the final norm, without the class token.

        Args:
            pixels: (B, 3, H, W), as in `forward`.
            layer: block whose output is read; negative counts from the end.

        Returns:
            (B, h·w, D), row-major.

        Raises:
            ValueError: the layer does not exist or pixels has another shape.
        """
        depth = self.config.depth
        if not -depth <= layer < depth:
            raise ValueError(f"layer {layer} is out of range: this tower has {depth} blocks")
        return self.patches(self.tokens(pixels, layer % depth + 1))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, N, D) of `tokens` after all blocks to (B, E)."""
        x = self.pool(tokens) if self.config.pooling == "attention" else tokens[:, 0]  # (B, D)
        return self.projection(x)  # type: ignore[no-any-return]

    def final_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens after all blocks and the final norm, and those that pooling reads.

        An attention pool reads the final tokens. A class token is pooled by the attention of the
        last block, which reads what the blocks before it give, without the final norm.

        Returns:
            (B, N, D) and (B, N, D), the class token first.

        Raises:
            ValueError: pixels has another shape.
        """
        positions, rotation = self._grid(pixels)
        x = self._residual(pixels, positions, rotation, self.config.depth - 1)
        tokens: Tensor = self.post_norm(self.blocks[-1](x, rotation))
        return tokens, x if self.config.pooling == "class_token" else tokens

    def patches(self, tokens: Tensor) -> Tensor:
        """(B, N, D) of `tokens` to (B, h·w, D): without the class token."""
        return tokens[:, int(self.config.has_class_token) :].contiguous()

    def tokens(self, pixels: Tensor, num_blocks: int) -> Tensor:
        """(B, 3, H, W) to (B, N, D), after so many blocks and the final norm.

        Raises:
            ValueError: pixels has another shape.
        """
        return self.run_blocks(pixels, *self._grid(pixels), num_blocks)

    def run_blocks(
        self, pixels: Tensor, positions: Tensor, rotation: Rotation | None, num_blocks: int
    ) -> Tensor:
        """Do what `tokens` does, with the (N, D) positions and the rotation of a grid given."""
        normed: Tensor = self.post_norm(self._residual(pixels, positions, rotation, num_blocks))
        return normed  # the same where the tower has no final norm

    def _residual(
        self, pixels: Tensor, positions: Tensor, rotation: Rotation | None, num_blocks: int
    ) -> Tensor:
        x = self._embedded_patches(pixels)  # (B, h·w, D)
        if self.config.has_class_token:
            x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1)
        hidden: Tensor = self.pre_norm(x + positions)
        for block in self.blocks[:num_blocks]:
            hidden = block(hidden, rotation)
        return hidden

    def _grid(self, pixels: Tensor) -> tuple[Tensor, Rotation | None]:
        """Return the (N, D) positions and the rotation of the patches of (B, 3, H, W) pixels."""
        patch_size = self.config.patch_size
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels must be (B, 3, H, W), got {tuple(pixels.shape)}")
        if pixels.shape[2] % patch_size or pixels.shape[3] % patch_size:
            raise ValueError(
                f"height and width must be multiples of {patch_size}, got {tuple(pixels.shape[2:])}"
            )
        grid_h, grid_w = (side // patch_size for side in pixels.shape[2:])
        return self._positions(grid_h, grid_w), self._rotation(grid_h, grid_w, pixels.device)

    def _embedded_patches(self, pixels: Tensor) -> Tensor:
        if pixels.device.type != "cuda":
            return self.patch_embed(pixels).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
        # The same as a matrix product: cuDNN rounds float32 to TF32 in convolutions, unless it is
        # told not to for the whole process.
        return F.linear(
            patch_rows(pixels, self.config.patch_size), self.patch_embed.weight.flatten(1)
        )

    def _positions(self, grid_h: int, grid_w: int) -> Tensor:
        """(N, D) position embeddings, resized bilinearly where the grid is not the native one."""
        native = self.config.grid_size
        if (grid_h, grid_w) == (native, native):
            return self.position_embedding
        first = int(self.config.has_class_token)
        grid = self.position_embedding[first:].view(native, native, -1)  # (h, w, D)
        resized = F.interpolate(
            grid.permute(2, 0, 1)[None], size=(grid_h, grid_w), mode="bilinear", align_corners=False
        )  # (1, D, h', w')
        return torch.cat([self.position_embedding[:first], resized[0].flatten(1).T])

    def _rotation(self, grid_h: int, grid_w: int, device: torch.device) -> Rotation | None:
        if not self.config.has_rope:
            return None
        head_dim = self.config.width // self.config.num_heads
        # Angles are computed in float32 whatever the precision: bf16 has 8 bits, too few for them.
        angles = rope_table(
            grid_h, grid_w, head_dim, has_class_token=self.config.has_class_token, device=device
        )
        return Rotation(angles.cos(), angles.sin())


def patch_rows(pixels: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) to (B, h·w, 3·p·p): each square's numbers as a convolution's kernel has them."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    squares = pixels.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
