"""The text tower, both towers as one model, and the graphs that backends run.

The text tower is that of perception_models core/vision_encoder/pe.py `TextTransformer` with
"argmax" pooling, which is also OpenAI CLIP's.
"""

import torch
from torch import Tensor, nn

from perception_encoder.model.blocks import NORM_EPS, Block
from perception_encoder.model.vision import VisionTower
from perception_encoder.registry.config import ModelConfig, TextConfig


class TextTower(nn.Module):
    """A causal transformer whose vector is read at the first end-of-text token."""

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.position_embedding = nn.Parameter(torch.zeros(config.context_length, width))
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_width, config.activation)
            for _ in range(config.depth)
        )
        self.final_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.projection = nn.Linear(width, embed_dim, bias=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed a batch of token rows.

        Args:
            token_ids: (B, L) integers, L at most `context_length`. Each row holds the end-of-text
                token, the vocabulary's highest id; what follows it cannot change the result, so
                columns past the longest text may be cut.

        Returns:
            (B, E), not normalized.

        Raises:
            ValueError: token_ids has another rank or too many columns.
        """
        if token_ids.ndim != 2 or token_ids.shape[1] > self.config.context_length:
            raise ValueError(
                f"token_ids must be (B, L) with L <= {self.config.context_length}, "
                f"got {tuple(token_ids.shape)}"
            )
        x = self.token_embedding(token_ids) + self.position_embedding[: token_ids.shape[1]]
        for block in self.blocks:
            x = block(x, is_causal=True)  # (B, L, D)
        # argmax returns the first of equal maxima, which is the first end-of-text token.
        x = x[torch.arange(x.shape[0], device=x.device), token_ids.argmax(dim=-1)]  # (B, D)
        return self.projection(self.final_norm(x))  # type: ignore[no-any-return]


class DualEncoder(nn.Module):
    """All of one model's weights. Calls change nothing, so threads may share it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision, config.embed_dim)
        if config.text is not None:
            if config.embed_dim is None:
                raise ValueError(f"{config.id} reads text and so needs embed_dim")
            self.text = TextTower(config.text, config.embed_dim)
            # Stored as its logarithm, as in every CLIP checkpoint.
            self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, E), not normalized; see `VisionTower.forward`."""
        return self.vision(pixels)  # type: ignore[no-any-return]

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """(B, L) token ids to (B, E), not normalized; see `TextTower.forward`.

        Raises:
            ValueError: the model has no text tower.
        """
        if self.config.text is None:
            raise ValueError(f"{self.config.id} has no text tower")
        return self.text(token_ids)  # type: ignore[no-any-return]


class Normalize(nn.Module):
    """Levels to what the vision tower reads, in torchvision's float32 steps.

    As ToTensor and Normalize in perception_models core/vision_encoder/transforms.py.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8, RGB, to (B, 3, H, W) float32: (value / 255 - mean) / std."""
        values = pixels.permute(0, 3, 1, 2).contiguous().float()
        return (values / 255 - self.mean) / self.std


class ImageGraph(nn.Module):
    """Images to vectors."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        image = model.config.image
        weight = model.vision.patch_embed.weight
        self.vision = model.vision
        self.normalize = Normalize(image.mean, image.std).to(weight.device)
        self.dtype = weight.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8, RGB, to (B, E) float32, not normalized."""
        vectors: Tensor = self.vision(self.normalize(pixels).to(self.dtype))
        return vectors.float()


class FeatureGraph(ImageGraph):
    """Images to patch features."""

    def forward(self, pixels: Tensor, layer: int = -1) -> Tensor:
        """(B, H, W, 3) uint8, RGB, to (B, h·w, D) float32; see `VisionTower.features`."""
        values = self.normalize(pixels).to(self.dtype)
        return self.vision.features(values, layer=layer).float()


class PoolInputGraph(ImageGraph):
    """Images to the tokens that pooling reads."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8, RGB, to (B, N, D) float32; see `VisionTower.final_tokens`."""
        values = self.normalize(pixels).to(self.dtype)
        return self.vision.final_tokens(values)[1].float()


class VisionGraph(nn.Module):
    """Images to vectors and patch features at once, for backends that run a graph whole."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.image = ImageGraph(model)

    @property
    def output_names(self) -> list[str]:
        """What `forward` returns, in its order."""
        config = self.image.vision.config
        if config.pooling == "none":
            return ["features"]
        pool_inputs = ["pool_inputs"] if config.has_class_token else []  # else the features are
        return ["embeddings", "features", *pool_inputs]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run the tower once.

        Args:
            pixels: (B, S, S, 3) uint8, RGB.

        Returns:
            As `output_names` lists them: (B, E), (B, h·w, D) of the last block, and (B, N, D) of
            `PoolInputGraph`; all float32.
        """
        vision = self.image.vision
        values = self.image.normalize(pixels).to(self.image.dtype)
        tokens, pool_inputs = vision.final_tokens(values)
        features = vision.patches(tokens).float()
        if vision.config.pooling == "none":
            return (features,)
        outputs = vision.pooled(tokens).float(), features
        return (*outputs, pool_inputs.float()) if vision.config.has_class_token else outputs


class TextGraph(nn.Module):
    """Token ids to vectors."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor) -> Tensor:
        """(B, L) int64 to (B, E) float32, not normalized; see `DualEncoder.encode_text`."""
        return self.model.encode_text(token_ids).float()
