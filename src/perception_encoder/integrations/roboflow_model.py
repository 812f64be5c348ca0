"""This backend as a model class of `inference_models`.

Used by `compat/inference_models`, which answers that import name, and by Roboflow's own package,
where a folder written by `pe export --format roboflow-package` names this class.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from inference_models import errors as theirs
from inference_models.errors import InvalidParameterError, ModelInputError
from inference_models.models.base.embeddings import TextImageEmbeddingModel

from perception_encoder import errors as ours
from perception_encoder.auto import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.preprocess import ImageInput, ImageProcessor, split_batch
from perception_encoder.registry import ImageConfig
from perception_encoder.types import ColorFormat

if TYPE_CHECKING:
    import torch


# The first line that fits is taken.
_TRANSLATIONS: tuple[tuple[type[Exception], type[Exception]], ...] = (
    (ours.ImageError, theirs.ModelInputError),
    (ours.UnknownModelError, theirs.ModelNotFoundError),
    (ours.OfflineError, theirs.ModelRetrievalError),
    (ours.DownloadError, theirs.RetryError),
    (ours.CheckpointError, theirs.CorruptedModelPackageError),
    (ours.TokenizerNotFoundError, theirs.CorruptedModelPackageError),
    (ours.BackendUnavailableError, theirs.EnvironmentConfigurationError),
    (ours.PerceptionEncoderError, theirs.ModelRuntimeError),
)


def listed(images: Any, color_format: ColorFormat | None) -> list[ImageInput]:
    """Make a list of single images, tensors among them in RGB order.

    Args:
        images: one image, a list of them, an (N, C, H, W) tensor or an (N, H, W, C) array.
        color_format: what was said of all of them; arrays are left to the preprocessing.

    Raises:
        TypeError, ImageValueError: see `split_batch`.
    """
    if getattr(images, "ndim", 0) in (2, 3):
        images = [images]
    inputs = split_batch(images)
    return [_rgb(image) for image in inputs] if color_format == "bgr" else inputs


def create_preprocessor(
    image_size: int, config: ImageConfig | None = None
) -> "Callable[..., torch.Tensor]":
    """Return a function of (images, input_color_format=None) to what the original's model reads.

    Args:
        image_size: S, the side of the model's square in pixels.
        config: resize rule and normalization; None is PE's.

    Returns:
        A function whose result is (N, 3, S, S) float32, RGB, normalized; for PE in [-1, 1].
    """
    config = config or ImageConfig()
    processor = ImageProcessor(config, image_size)

    def preprocess(images: Any, input_color_format: ColorFormat | None = None) -> "torch.Tensor":
        import torch

        order = input_color_format or "bgr"
        inputs = listed(images, input_color_format)
        squares = np.empty((len(inputs), image_size, image_size, 3), np.uint8)
        for row, source in enumerate(inputs):
            squares[row] = processor(source, input_color_format=order, item=f"image {row}")
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(part)[:, None, None] for part in (config.mean, config.std))
        return (pixels - mean) / std

    return preprocess


def _rgb(image: Any) -> Any:
    """Turn a tensor from BGR to RGB; arrays, and images that know their order, stay."""
    import torch

    if not isinstance(image, torch.Tensor) or image.ndim != 3 or len(image) not in (3, 4):
        return image
    return image[[2, 1, 0, *range(3, len(image))]]


@contextmanager
def their_errors(mistake: type[Exception]) -> Iterator[None]:
    """Raise the matching error of `inference_models`, with the same words, from ours.

    Args:
        mistake: what a TypeError or ValueError becomes, which here is a caller's wrong argument.
    """
    try:
        yield
    except ours.PerceptionEncoderError as err:
        error = next(error for kind, error in _TRANSLATIONS if isinstance(err, kind))
        raise error(str(err)) from err
    except (TypeError, ValueError) as err:
        raise mistake(str(err)) from err


@dataclass(frozen=True)
class ModelMetadata:
    """What others read of the original's `model.model`.

    Attributes:
        image_size: S, the side of its square input in pixels.
        context_length: L, the longest text in tokens; None where the model reads no text.
    """

    image_size: int
    context_length: int | None


class PerceptionEncoderTorch(TextImageEmbeddingModel):
    """Images and words to rows of float32 tensors of unit length, on the model's device.

    Keywords that are not named here are ignored, as the original does. Calls need no lock: any
    number of threads may share a model.

    Attributes:
        model: the numbers that the original's module has.
        device: a `torch.device`.
        preprocessor: images to what the original's model reads; see `create_preprocessor`.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        """Wrap a model of perception-encoder."""
        import torch

        config = model.config
        context_length = None if config.text is None else config.text.context_length
        self._embedder = model
        self.model = ModelMetadata(config.vision.image_size, context_length)
        self.device = torch.device(model.backend.device)
        self.preprocessor = create_preprocessor(config.vision.image_size, config.image)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | os.PathLike[str],
        device: "torch.device | str | None" = None,
        **_: Any,
    ) -> Self:
        """Open a model by id, file or folder, as `perception_encoder.AutoModel` does.

        It computes in fp16 on CUDA and in fp32 elsewhere, as the original does.

        Args:
            model_name_or_path: "perception-encoder/PE-Core-B16-224", or a path, which wins where
                both exist.
            device: where to compute; None is the default device of `inference_models`.
            **_: ignored.

        Raises:
            ModelNotFoundError: no such model.
            CorruptedModelPackageError: damaged weights, or of another model.
            RetryError, ModelRetrievalError: the weights could not be fetched.
            EnvironmentConfigurationError: no backend is installed, or the device is not here.
        """
        if device is None:
            from inference_models.configuration import DEFAULT_DEVICE

            device = DEFAULT_DEVICE
        with their_errors(InvalidParameterError):
            model = AutoModel.from_pretrained(
                model_name_or_path,
                device=str(device),
                precision="fp16" if str(device).startswith("cuda") else "fp32",
            )
        return cls(model)

    @property
    def tokenizer(self) -> "Callable[[str | Sequence[str]], torch.Tensor]":
        """Texts to (N, L) int64 token ids, every row filled with zeros up to the context."""
        import torch

        with their_errors(ModelInputError):
            tokenizer = self._embedder.tokenizer
        return lambda texts: torch.from_numpy(tokenizer(texts, trim=False))

    def embed_images(
        self, images: Any, input_color_format: ColorFormat | None = None, **_: Any
    ) -> "torch.Tensor":
        """Embed images, in order, in batches of 32.

        Args:
            images: a list of (H, W, C) arrays, BGR as `cv2.imread` gives them, (C, H, W) tensors,
                RGB, or anything else that `perception_encoder` takes, in any mix of kinds and
                sizes; one (N, C, H, W) tensor or (N, H, W, C) array; or a single array or tensor.
                uint8, or float in 0..1. Nothing of the caller's is changed.
            input_color_format: "bgr" or "rgb", where arrays or tensors differ from that.
            **_: ignored.

        Returns:
            (N, E) float32 of unit length, on the model's device.

        Raises:
            ModelInputError: an image cannot be used; names its position.
        """
        with their_errors(ModelInputError):
            vectors = self._embedder.embed_images(
                listed(images, input_color_format),
                input_color_format=input_color_format or "bgr",
                output="torch",
            )
        return vectors.to(self.device)

    def embed_image(
        self, image: Any, input_color_format: ColorFormat | None = None, **_: Any
    ) -> "torch.Tensor":
        """Embed one image; see `embed_images`.

        The original's documents call this method, though its class has none.

        Returns:
            (1, E) float32 of unit length, on the model's device.

        Raises:
            ModelInputError: the image cannot be used.
        """
        return self.embed_images([image], input_color_format)

    def embed_text(self, texts: str | Sequence[str], **_: Any) -> "torch.Tensor":
        """Embed one string, or several in order, in batches of 64.

        Returns:
            (1, E) float32 for a string, (N, E) for N of them; of unit length,
            on the model's device.

        Raises:
            ModelInputError: an item is not a string.
        """
        with their_errors(ModelInputError):
            vectors = self._embedder.embed_text(texts, output="torch")
        return vectors.to(self.device)
