"""Decode any kind of image input to one PIL image, in its own mode and not yet rotated.

Threads can decode the same image. The caller's data is never changed.
"""

import io
import os
import threading
from contextlib import suppress
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder.errors import ImageValueError
from perception_encoder.preprocess.arrays import (
    TensorLike,
    array_to_image,
    is_tensor,
    tensor_to_image,
)
from perception_encoder.preprocess.crops import CroppedImage, ShownImage
from perception_encoder.preprocess.encoded import (
    DAMAGE,
    DecodedImage,
    damage_error,
    decode_file,
    decode_stream,
)
from perception_encoder.preprocess.limits import check_size
from perception_encoder.types import ColorFormat

ImageInput: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Image.Image
    | NDArray[Any]
    | TensorLike
    | CroppedImage
)
"""A path; the bytes of a file; a PIL image; an array (H, W[, 1|3|4]), BGR unless said otherwise;
or a torch tensor ([1|3|4,] H, W), RGB. Pixels are uint8 or float in 0..1 (arrays: also uint16).
Or a part of one of these."""

DEFAULT_MAX_PIXELS: Final = 178_956_970
"""Where Pillow itself refuses to go on (twice its warning limit): a square of 13,377 pixels, about
0.7 GB decoded. Photos of 108 megapixels pass; servers want less."""

_MAX_LABEL_LENGTH: Final = 200

# A PIL image that was opened but not loaded reads its file at first use, and two threads given the
# same one would both read. Locks are picked by identity, so different images rarely share one.
_LOAD_LOCKS: Final = tuple(threading.Lock() for _ in range(64))


def decode_image(
    image: ImageInput,
    *,
    input_color_format: ColorFormat = "bgr",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    item: str | None = None,
) -> Image.Image:
    """Decode one image in full.

    Args:
        image: see `ImageInput`. Of animations the first frame counts (of a PIL image, the current).
        input_color_format: channel order of arrays; ignored for everything else.
        max_pixels: limit for files, bytes and PIL images, read from the header before decoding.
            Arrays and tensors are in memory already and are not limited.
        item: names the image in errors ("image 3 of the batch").

    Returns:
        A loaded image in its own mode. It may be the caller's or share its memory: only read it.

    Raises:
        ImageNotFoundError: no file at the path.
        ImageUnreadableError: a folder, a URL, a device, no permission, or reading failed.
        ImageEmptyError: zero bytes.
        ImageTruncatedError: the data ends early.
        ImageDecodeError: no image in a known format, or damaged.
        ImageTooLargeError: more than max_pixels, or beyond another limit of `limits` or `files`.
        ImageValueError: an array, tensor or PIL image of a wrong shape, dtype or range.
        TypeError: another kind of object.
    """
    return decode_scaled(
        image, input_color_format=input_color_format, max_pixels=max_pixels, item=item
    ).image


def decode_scaled(
    image: ImageInput,
    *,
    input_color_format: ColorFormat = "bgr",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    item: str | None = None,
    min_side: int | None = None,
) -> DecodedImage:
    """Decode one image, a large JPEG only as far as it is needed.

    Args:
        image: as for `decode_image`. A PIL image is never shrunk: it is the caller's.
        input_color_format: as for `decode_image`.
        max_pixels: as for `decode_image`; of the whole image.
        item: as for `decode_image`.
        min_side: a JPEG may become smaller by 2, 4 or 8, but no side shorter than this; None
            decodes everything in full.

    Returns:
        The image and its size before that.

    Raises:
        ImageError, TypeError: as `decode_image`.
    """
    label = describe(image, item)
    if isinstance(image, CroppedImage):
        whole = decode_image(
            image.image,
            input_color_format=input_color_format,
            max_pixels=max_pixels,
            item=label,
        )
        part = ShownImage(whole, item=label).cut(image.box)
        return DecodedImage(part, part.size, part.size)
    if isinstance(image, str | os.PathLike):
        return decode_file(image, max_pixels=max_pixels, item=label, min_side=min_side)
    if isinstance(image, bytes | bytearray | memoryview):
        data = image if isinstance(image, bytes) else bytes(image)
        return decode_stream(
            io.BytesIO(data),
            num_bytes=len(data),
            max_pixels=max_pixels,
            item=label,
            min_side=min_side,
        )
    in_full = _in_memory(image, input_color_format, max_pixels=max_pixels, item=label)
    return DecodedImage(in_full, in_full.size, in_full.size)


def _in_memory(
    image: object, color_format: ColorFormat, *, max_pixels: int, item: str
) -> Image.Image:
    if isinstance(image, Image.Image):
        return _load(image, max_pixels=max_pixels, item=item)
    if isinstance(image, np.ndarray):
        return array_to_image(image, input_color_format=color_format, item=item)
    if is_tensor(image):
        return tensor_to_image(image, item=item)
    hint = " (cv2.imread returns None when it cannot read a file)" if image is None else ""
    raise TypeError(
        f"{item}: expected a path, bytes, a PIL image, a numpy array or a torch tensor, "
        f"got {type(image).__name__}{hint}"
    )


def describe(image: ImageInput, item: str | None) -> str:
    """Name an image for errors: its place if given, and its path if it has one."""
    if isinstance(image, CroppedImage):
        image = image.image
    if not isinstance(image, str | os.PathLike):
        return item or "the image"
    path = os.fsdecode(image)
    if len(path) > _MAX_LABEL_LENGTH:
        path = f"{path[:_MAX_LABEL_LENGTH]}…"
    return f"{item} ({path})" if item and path not in item else item or path


def _load(image: Image.Image, *, max_pixels: int, item: str) -> Image.Image:
    """Load a PIL image of the caller's and read its EXIF, both once and by one thread."""
    if 0 in image.size:
        raise ImageValueError(f"{item}: a PIL image of size {image.size} has no pixels", item=item)
    check_size(image.size, max_pixels=max_pixels, item=item)
    with _LOAD_LOCKS[id(image) // 64 % len(_LOAD_LOCKS)]:
        try:
            image.load()
        except DAMAGE as err:
            raise damage_error(err, item, is_cut=False) from err
        with suppress(*DAMAGE):  # broken metadata does not make an image unusable
            image.getexif()
    return image
