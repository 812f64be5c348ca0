"""What a backend runs from end to end: prepared images or token ids in, float32 vectors out.

The same modules are called by the torch backend and written out for the others, so that no backend
has a step of its own. Each is made around a model that has its final device and precision.
"""

import torch
from torch import Tensor, nn

from perception_encoder.model.dual_encoder import DualEncoder


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


class VisionGraph(nn.Module):
    """Images to vectors and patch features at once, for backends that run a graph whole."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.image = ImageGraph(model)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, S, S, 3) uint8, RGB, to (B, E) and (B, h·w, D) float32, of the last block.

        A tower without pooling gives the features alone.
        """
        vision = self.image.vision
        values = self.image.normalize(pixels).to(self.image.dtype)
        tokens = vision.tokens(values, vision.config.depth)
        features = vision.patches(tokens).float()
        if vision.config.pooling == "none":
            return (features,)
        return vision.pooled(tokens).float(), features


class TextGraph(nn.Module):
    """Token ids to vectors."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor) -> Tensor:
        """(B, L) int64 to (B, E) float32, not normalized; see `DualEncoder.encode_text`."""
        return self.model.encode_text(token_ids).float()
