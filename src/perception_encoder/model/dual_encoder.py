"""A vision tower and, where the model reads text, a text tower and a logit scale."""

import torch
from torch import Tensor, nn

from perception_encoder.model.text import TextTower
from perception_encoder.model.vision import VisionTower
from perception_encoder.registry.config import ModelConfig


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
        """(B, 3, H, W) pixels to (B, E), not normalised; see `VisionTower.forward`."""
        return self.vision(pixels)  # type: ignore[no-any-return]

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """(B, L) token ids to (B, E), not normalised; see `TextTower.forward`.

        Raises:
            ValueError: the model has no text tower.
        """
        if self.config.text is None:
            raise ValueError(f"{self.config.id} has no text tower")
        return self.text(token_ids)  # type: ignore[no-any-return]
