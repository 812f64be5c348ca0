"""What pe-nano is trained to do, as losses over unit vectors.

Two parts: the contrastive loss of CLIP over the batch, and classification of images and
captions against a learned table with one vector per concept. The table sees all concepts at every
step, where a batch that fits on a CPU holds a tenth of them; it is thrown away after training.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConceptTable(nn.Module):
    """One learned vector per concept, compared by scaled cosine."""

    def __init__(self, num_concepts: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_concepts, embed_dim) * embed_dim**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())

    def forward(self, embeddings: Tensor, concepts: Tensor) -> Tensor:
        """Mean cross entropy of the rows whose concept is known.

        Args:
            embeddings: (B, E) of unit length.
            concepts: (B,) int64, -1 where there is none.
        """
        known = concepts >= 0
        scale = self.log_scale.exp().clamp(max=50)
        logits = scale * embeddings[known] @ F.normalize(self.weight, dim=-1).T
        return F.cross_entropy(logits, concepts[known], label_smoothing=0.1)


def contrastive(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric loss; row i of both belongs together.

    Args:
        images: (B, E) of unit length.
        texts: (B, E) of unit length.
        logit_scale: scalar, logarithm of the scale.
    """
    logits = logit_scale.exp().clamp(max=100) * images @ texts.T
    labels = torch.arange(images.shape[0], device=images.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
