"""What every model of images and words can do."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import torch

Side = Literal["image", "text"]


class TextImageEmbeddingModel(ABC):
    """Turns images and words into rows of one space."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, model_name_or_path: str, **kwargs: Any) -> Self:
        """Open a model."""

    @abstractmethod
    def embed_images(self, images: Any, **kwargs: Any) -> "torch.Tensor":
        """(N, E) float32, a row for each image."""

    @abstractmethod
    def embed_text(self, texts: Any, **kwargs: Any) -> "torch.Tensor":
        """(N, E) float32, a row for each text."""

    def compare_embeddings(
        self, x: Any, y: Any, x_type: Side = "image", y_type: Side = "text", **kwargs: Any
    ) -> "torch.Tensor":
        """Embed two sides and compare each of one with each of the other.

        Args:
            x: what `embed_images` or, where `x_type` is not "image", `embed_text` takes.
            y: likewise, by `y_type`.
            x_type: what `x` is.
            y_type: what `y` is.
            **kwargs: go to the methods that embed, of both sides.

        Returns:
            (len(x), len(y)) float32, cosines in [-1, 1], on the model's device.
        """
        from torch.nn.functional import normalize

        rows = [
            self.embed_images(images=side, **kwargs)
            if kind == "image"
            else self.embed_text(texts=side, **kwargs)
            for side, kind in ((x, x_type), (y, y_type))
        ]
        return normalize(rows[0]) @ normalize(rows[1]).T
