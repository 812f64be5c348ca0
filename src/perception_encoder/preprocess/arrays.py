"""Arrays and tensors to PIL images; torch is not imported."""

from typing import Any, Final, Protocol, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder.errors import ImageValueError
from perception_encoder.types import ColorFormat

_RANGE_TOLERANCE: Final = 1e-3  # what float arithmetic may leave outside 0..1; rounds to 0 or 255

# (channels, order in memory): Pillow's mode, and the raw mode that reads that order.
_RAW_MODES: Final[dict[tuple[int, ColorFormat], tuple[str, str]]] = {
    (1, "bgr"): ("L", "L"),
    (1, "rgb"): ("L", "L"),
    (3, "bgr"): ("RGB", "BGR"),
    (3, "rgb"): ("RGB", "RGB"),
    (4, "bgr"): ("RGBA", "BGRA"),
    (4, "rgb"): ("RGBA", "RGBA"),
}


class TensorLike(Protocol):
    """A torch tensor, as far as it is looked at before it is a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    def is_floating_point(self) -> bool:
        """Whether the values are floats of any width."""

    def detach(self) -> Self:
        """The same values outside any gradient."""

    def cpu(self) -> Self:
        """The same values in main memory."""

    def float(self) -> Self:
        """The values as float32."""

    def numpy(self) -> NDArray[Any]:
        """The values as an array that shares memory."""


def is_tensor(value: object) -> TypeGuard[TensorLike]:
    """Tell a torch tensor (or a subclass of it) from anything else, without importing torch."""
    return any(
        kind.__name__ == "Tensor" and kind.__module__.partition(".")[0] == "torch"
        for kind in type(value).__mro__
    )


def array_to_image(
    array: NDArray[Any], *, input_color_format: ColorFormat, item: str
) -> Image.Image:
    """Make a PIL image of an image in memory; the array is only read.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): gray, color, or color and alpha; any
            strides. uint8; uint16 over its full range; or float in 0..1.
        input_color_format: order of the color channels; alpha always comes last.
        item: names the image in errors.

    Returns:
        An "L", "RGB" or "RGBA" image, which may share the array's memory.

    Raises:
        ImageValueError: another rank, number of channels or dtype; floats outside 0..1 or NaN;
            no pixels.
        ValueError: input_color_format is neither "bgr" nor "rgb".
    """
    if input_color_format not in ("bgr", "rgb"):
        raise ValueError(f"input_color_format is 'bgr' or 'rgb', not {input_color_format!r}")
    num_channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if num_channels not in (1, 3, 4):
        raise ImageValueError(_shape_message(array.shape, item), item=item)
    if array.size == 0:
        raise ImageValueError(f"{item}: an array of shape {array.shape} has no pixels", item=item)
    levels = np.ascontiguousarray(to_levels(array, item=item))
    mode, raw_mode = _RAW_MODES[num_channels, input_color_format]
    height, width = array.shape[:2]
    return Image.frombuffer(mode, (width, height), levels, "raw", raw_mode, 0, 1)


def tensor_to_image(tensor: TensorLike, *, item: str) -> Image.Image:
    """Make a PIL image of a torch tensor, which is RGB with the channels first.

    Args:
        tensor: (H, W), (1, H, W), (3, H, W) or (4, H, W) on any device; uint8 or float in 0..1.
        item: names the image in errors.

    Raises:
        ImageValueError: as for `array_to_image`.
    """
    on_cpu = tensor.detach().cpu()
    if on_cpu.is_floating_point():
        on_cpu = on_cpu.float()  # numpy has no bfloat16
    array = on_cpu.numpy()
    if array.ndim == 3:
        if array.shape[0] not in (1, 3, 4):
            hint = "a tensor is CHW: (H, W) or (C, H, W) with 1, 3 or 4 channels first"
            raise ImageValueError(f"{item}: got a tensor of shape {array.shape}; {hint}", item=item)
        array = array.transpose(1, 2, 0)
    return array_to_image(array, input_color_format="rgb", item=item)


def to_levels(values: NDArray[Any], *, item: str) -> NDArray[np.uint8]:
    """Bring pixel values of any accepted dtype to 0..255.

    Floats are multiplied by 255 and rounded to the nearest level (half to even). 16-bit values
    keep their high byte, as Pillow does when it reads 16-bit color: 65535 becomes 255, and both
    ways of widening 8 bits to 16 (v·256 and v·257) are undone exactly.

    Raises:
        ImageValueError: floats outside 0..1 or NaN; another dtype.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        high_bytes: NDArray[np.uint8] = np.right_shift(values, 8).astype(np.uint8)
        return high_bytes
    if values.dtype.kind != "f":
        raise ImageValueError(
            f"{item}: pixels of dtype {values.dtype}; expected uint8 in 0..255, uint16 in 0..65535 "
            "or float in 0..1",
            item=item,
        )
    low, high = float(values.min()), float(values.max())
    # Written so that NaN, which compares false with everything, is refused too.
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise ImageValueError(
            f"{item}: float pixels must lie in 0..1, got {low:.6g}..{high:.6g}; "
            "divide by the largest possible value, or pass uint8",
            item=item,
        )
    scaled = np.multiply(values, 255, dtype=np.float32)
    levels: NDArray[np.uint8] = np.rint(scaled, out=scaled).astype(np.uint8)
    return levels


def _shape_message(shape: tuple[int, ...], item: str) -> str:
    message = f"{item}: got an array of shape {shape}; one image is (H, W) or (H, W, 1 | 3 | 4)"
    if len(shape) == 4:
        return f"{message}; pass a batch where a batch is expected"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return f"{message}; this looks like channels first: transpose(1, 2, 0)"
    return message
