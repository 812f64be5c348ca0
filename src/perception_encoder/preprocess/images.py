"""`ImageProcessor`: decode, rotate, convert and resize an image to a model's pixels."""

import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Final, NamedTuple, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder.errors import ImageValueError
from perception_encoder.preprocess.arrays import TensorLike, is_tensor
from perception_encoder.preprocess.color import find_profile
from perception_encoder.preprocess.decode import (
    DEFAULT_MAX_PIXELS,
    ImageInput,
    decode_scaled,
    describe,
)
from perception_encoder.preprocess.encoded import DecodedImage
from perception_encoder.preprocess.transforms import (
    convert_colors,
    convert_to_rgb,
    resize,
    to_opaque,
    turn_of,
    upright_size,
)
from perception_encoder.registry import ImageConfig
from perception_encoder.types import ColorFormat, PreprocessName

_CHANNELS: Final = (1, 3, 4)
# How much larger than the model's square "fast" leaves an image for the filter that the others
# apply to the whole (figures: benchmarks/results/decoding.json).
_DECODED_GAP: Final = 2
_REDUCING_GAP: Final = 3.0


class ResizedImage(NamedTuple):
    """An image as a model reads it, and its own size.

    Attributes:
        pixels: (S, S, 3) uint8, or of another size that was chosen; RGB, contiguous, the caller's
            to keep.
        width: of the whole image when upright.
        height: of the whole image when upright.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


class ImageProcessor:
    """Turns images into a model's input. Holds no state beyond its settings: share it freely.

    Args:
        config: the model's resize rule and interpolation.
        image_size: S, the side of the model's square input in pixels.
        preprocess: "standard" shows the model what a viewer shows (turned by EXIF, transparency
            over white, deep and palette colors converted, wide colors converted to sRGB) and then
            resizes. "reference" does what
            the original code does, bit for bit: it resizes in the file's own mode and then
            converts to RGB. On sRGB images without an EXIF turn the two are equal. "fast" is
            "standard" but for large images: a JPEG is decoded at a half, a quarter or an eighth
            of its size where that leaves both sides twice the model's, and what is still large
            is resized in two steps.
        max_pixels: files, bytes and PIL images of more pixels are refused before decoding.

    Raises:
        ValueError: an unknown preprocessing, or a size or limit below 1.

    Source of "reference": perception_models core/vision_encoder/transforms.py and open_clip
    src/open_clip/transform.py (Resize, then CenterCrop for CLIP, convert, ToTensor, Normalize).
    """

    def __init__(
        self,
        config: ImageConfig,
        image_size: int,
        *,
        preprocess: PreprocessName = "standard",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        if preprocess not in get_args(PreprocessName):
            choices = ", ".join(get_args(PreprocessName))
            raise ValueError(f"unknown preprocessing {preprocess!r}; one of: {choices}")
        if image_size < 1 or max_pixels < 1:
            raise ValueError(
                f"image_size {image_size} and max_pixels {max_pixels} must be positive"
            )
        self.config = config
        self.image_size = image_size
        self.max_pixels = max_pixels
        self._preprocess: PreprocessName = preprocess
        self._min_side = _DECODED_GAP * image_size if preprocess == "fast" else None

    @property
    def name(self) -> PreprocessName:
        """The preprocessing's name, as stored with every vector."""
        return self._preprocess

    def with_preprocess(self, preprocess: PreprocessName) -> Self:
        """Return a processor that differs in its preprocessing alone."""
        return type(self)(
            self.config, self.image_size, preprocess=preprocess, max_pixels=self.max_pixels
        )

    def __call__(
        self,
        image: ImageInput,
        *,
        input_color_format: ColorFormat = "bgr",
        item: str | None = None,
    ) -> NDArray[np.uint8]:
        """Prepare one image.

        Args:
            image: see `ImageInput`; only read.
            input_color_format: channel order of numpy arrays; ignored for everything else.
            item: names the image in errors.

        Returns:
            (S, S, 3) uint8, RGB, contiguous, the caller's to keep.

        Raises:
            ImageError: see `decode_image`.
            TypeError: not a kind of image.
        """
        return self.resize_measured(image, input_color_format=input_color_format, item=item).pixels

    def resize_measured(
        self,
        image: ImageInput,
        *,
        input_color_format: ColorFormat = "bgr",
        item: str | None = None,
        choose_size: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> ResizedImage:
        """Prepare one image as calling does, and tell how large it was.

        Args:
            image: see `ImageInput`; only read.
            input_color_format: channel order of numpy arrays; ignored for everything else.
            item: names the image in errors.
            choose_size: from width and height as the model sees the image to those that the whole
                image is resized to. Without it the result is the model's square, by its own rule.

        Raises:
            ImageError, TypeError: as calling.
        """
        decoded = decode_scaled(
            image,
            input_color_format=input_color_format,
            max_pixels=self.max_pixels,
            item=item,
            min_side=self._min_side if choose_size is None else None,
        )
        label = describe(image, item)
        turn = turn_of(decoded.image)
        is_reference = self._preprocess == "reference"
        size: int | tuple[int, int] = self.image_size
        if choose_size is not None:
            size = choose_size(*upright_size(decoded.full_size, None if is_reference else turn))
        if is_reference:
            resized = self._reference(decoded.image, size, label)
        else:
            resized = self._standard(decoded, size, turn, label)
        return ResizedImage(np.array(resized), *upright_size(decoded.full_size, turn))

    def _standard(
        self,
        decoded: DecodedImage,
        size: int | tuple[int, int],
        turn: Image.Transpose | None,
        item: str,
    ) -> Image.Image:
        profile = find_profile(decoded.image)
        resized = resize(
            to_opaque(decoded.image, item=item, profile=profile),
            image_size=size,
            config=self.config,
            size=decoded.covered,
            turn=turn,
            reducing_gap=_REDUCING_GAP if self._preprocess == "fast" else None,
        )
        # Last, when there are few colors left to convert: 3 ms instead of 600 for 12 megapixels.
        return convert_colors(resized, profile, item=item)

    def _reference(self, image: Image.Image, size: int | tuple[int, int], item: str) -> Image.Image:
        resized = resize(image, image_size=size, config=self.config)
        # Pillow would also convert the transparent color, which is dropped, and may warn of it.
        resized.info.pop("transparency", None)
        return convert_to_rgb(resized, item=item)


def split_batch(images: Iterable[ImageInput] | NDArray[Any] | TensorLike) -> list[ImageInput]:
    """Make a list of single images from what people call a batch.

    Args:
        images: a list (or other iterable) of any mix of `ImageInput`; one (N, H, W, 1|3|4) array;
            or one (N, 1|3|4, H, W) tensor.

    Returns:
        The images in order. Those of an array are views of it; a tensor comes to the CPU once.

    Raises:
        TypeError: a single image, a mapping or a set, or nothing that can be iterated.
        ImageValueError: an array or tensor of another rank or number of channels.
    """
    if isinstance(images, np.ndarray):
        if images.ndim == 1 and images.dtype.kind in "OU":  # paths, from a table's column
            return list(images)
        _check_batch_shape(images.shape, channel_axis=3, layout="(N, H, W, C)")
        return list(images)
    if is_tensor(images):
        _check_batch_shape(tuple(images.shape), channel_axis=1, layout="(N, C, H, W)")
        return list(cast("Iterable[ImageInput]", images.detach().cpu()))
    single = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    if isinstance(images, single):
        raise TypeError(
            f"expected several images, got a single {type(images).__name__}; "
            "wrap it in a list, or use embed_image"
        )
    if isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise TypeError(f"expected a list of images, got {type(images).__name__}")
    return list(images)


def _check_batch_shape(shape: tuple[int, ...], *, channel_axis: int, layout: str) -> None:
    if len(shape) == 4 and shape[channel_axis] in _CHANNELS:
        return
    hint = "for a single image wrap it in a list, or use embed_image"
    if len(shape) == 4:
        hint = f"its axes look like {'(N, C, H, W)' if channel_axis == 3 else '(N, H, W, C)'}"
    raise ImageValueError(
        f"a batch is {layout} with C of 1, 3 or 4, got shape {shape}; {hint}", item="the batch"
    )


def num_usable_cores() -> int:
    """Return how many cores this process may run on, which a container or taskset may limit.

    Reading, hashing, decoding and resizing all release the interpreter's lock, so one thread a core
    keeps every core busy, and more only take memory: 12 megapixels are 48 MB while they are decoded
    (figures: benchmarks/results/decoding.json).
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
