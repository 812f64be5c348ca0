"""A loaded model with the methods and return types of `inference-models`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perception_encoder import EmbeddingModel
from perception_encoder.preprocess import split_batch
from perception_encoder.types import ColorFormat

if TYPE_CHECKING:
    import torch


class TextImageEmbeddingModel:
    """Pictures and words to rows of float32 tensors on the CPU, each of unit length.

    Keywords that only the original knows are accepted and ignored, as it does itself.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        """Wrap a model of perception-encoder."""
        self._model = model

    def embed_image(
        self, image: Any, input_color_format: ColorFormat | None = None, **_: Any
    ) -> "torch.Tensor":
        """Embed one picture.

        Args:
            image: an (H, W, C) array, BGR as `cv2.imread` gives it; a (C, H, W) tensor, RGB; or
                anything else that `perception_encoder.EmbeddingModel.embed_image` takes.
            input_color_format: "bgr" or "rgb", where the array or tensor differs from that.
            **_: ignored.

        Returns:
            (1, E) float32.

        Raises:
            perception_encoder.errors.ImageError: the picture cannot be used.
        """
        return self._model.embed_image(
            _rgb_tensor(image, input_color_format),
            input_color_format=input_color_format or "bgr",
            output="torch",
        )

    def embed_images(
        self, images: Any, input_color_format: ColorFormat | None = None, **_: Any
    ) -> "torch.Tensor":
        """Embed several pictures, in order.

        Args:
            images: a list of what `embed_image` takes; one (N, C, H, W) tensor or (N, H, W, C)
                array; or a single array or tensor, which counts as a list of one.
            input_color_format: as in `embed_image`.
            **_: ignored.

        Returns:
            (N, E) float32.

        Raises:
            perception_encoder.errors.ImageError: a picture cannot be used; names its position.
        """
        if getattr(images, "ndim", 0) in (2, 3):
            images = [images]
        return self._model.embed_images(
            [_rgb_tensor(image, input_color_format) for image in split_batch(images)],
            input_color_format=input_color_format or "bgr",
            output="torch",
        )

    def embed_text(self, texts: str | Sequence[str], **_: Any) -> "torch.Tensor":
        """Embed one string, or a list of them in order.

        Returns:
            (1, E) float32 for a string, (N, E) for N of them.

        Raises:
            TypeError: an item is not a string.
        """
        return self._model.embed_text(texts, output="torch")


def _rgb_tensor(image: Any, color_format: ColorFormat | None) -> Any:
    """Turn a BGR tensor, which perception-encoder does not know, into an RGB one."""
    import torch

    if color_format != "bgr" or not isinstance(image, torch.Tensor) or image.ndim < 3:
        return image
    num_channels = image.shape[-3]
    if num_channels not in (3, 4):
        return image
    return image[..., [2, 1, 0, *range(3, num_channels)], :, :]
