"""Decoded frames become upright RGB arrays with square pixels. Used in the child process only."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.preprocess.hdr import HLG, PQ, find_gain, to_light

if TYPE_CHECKING:
    from fractions import Fraction

    from av import VideoFrame

# Of ITU-T H.273: what streams say of their colors.
_UNSPECIFIED: Final = 2
_BT709, _BT601, _BT2020 = 1, 5, 9
_HD_HEIGHT: Final = 720  # from here on, players take colors that are not declared for BT.709
_2020_TO_709: Final = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMA_709: Final = np.array([0.2126, 0.7152, 0.0722], np.float32)
_MOST_STRETCHED: Final = 8  # a pixel's width by its height; beyond it the file is wrong


class ShownSize(NamedTuple):
    """Width and height as shown, pixels."""

    width: int
    height: int


def shown_size(frame: VideoFrame, aspect: Fraction | None, rotation: int) -> ShownSize:
    """Return the size of a frame with square pixels, upright.

    Args:
        frame: the frame.
        aspect: width of a pixel by its height; None or 0 if it is unknown.
        rotation: degrees by which it is turned.
    """
    width, height = _square_pixels(frame, aspect)
    return ShownSize(height, width) if rotation % 180 == 90 else ShownSize(width, height)


def to_upright_rgb(
    frame: VideoFrame, aspect: Fraction | None, rotation: int, min_side: int | None
) -> NDArray[np.uint8]:
    """Return a frame as (H, W, 3) uint8 RGB, as a player shows it; HDR is tone mapped.

    Args:
        frame: the frame.
        aspect: as in `shown_size`.
        rotation: degrees, counterclockwise, by which a player turns it; a multiple of 90.
        min_side: shrink it to this shorter side if it is larger; None keeps its size.
    """
    width, height = _square_pixels(frame, aspect)
    shrinks = min_side is not None and min(width, height) > min_side
    if shrinks and min_side is not None:
        scale = min_side / min(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    is_hdr = is_hdr_frame(frame)
    converted = frame.reformat(
        width,
        height,
        "rgb48le" if is_hdr else "rgb24",
        src_colorspace=_colorspace(frame),
        interpolation="AREA" if shrinks else "BICUBIC",
    )
    pixels = converted.to_ndarray()
    rgb = (
        tone_map(pixels.astype(np.uint16, copy=False), frame.color_trc)
        if is_hdr
        else pixels.astype(np.uint8, copy=False)
    )
    return np.ascontiguousarray(np.rot90(rgb, rotation // 90 % 4))


def is_hdr_frame(frame: VideoFrame) -> bool:
    """Whether a frame's values are PQ or HLG."""
    return frame.color_trc in (PQ, HLG)


def tone_map(pixels: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Map HDR values with BT.2020 primaries to sRGB.

    Args:
        pixels: (H, W, 3) uint16, PQ or HLG.
        transfer: 16 for PQ, 18 for HLG.

    Returns:
        (H, W, 3) uint8. White paper (203 nits) stays bright, and lights up to 1000 nits keep
        their color (Reinhard's curve on the luminance).
    """
    linear = _linear_values(transfer)[pixels] @ _2020_TO_709.T
    luminance = np.maximum(linear @ _LUMA_709, 1e-6)[..., np.newaxis]
    linear = np.clip(linear * find_gain(luminance), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    shown: NDArray[np.uint8] = np.rint(255 * encoded).astype(np.uint8)
    return shown


@lru_cache(maxsize=2)
def _linear_values(transfer: int) -> NDArray[np.float32]:
    """Return the light of each 16-bit value, where white paper is 1."""
    return to_light(np.arange(65536) / 65535, transfer).astype(np.float32)


def _colorspace(frame: VideoFrame) -> int:
    if frame.colorspace not in (0, _UNSPECIFIED):
        return frame.colorspace
    if is_hdr_frame(frame):
        return _BT2020
    return _BT709 if frame.height >= _HD_HEIGHT else _BT601


def _square_pixels(frame: VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    ratio = float(aspect or 1)
    if not 1 / _MOST_STRETCHED <= ratio <= _MOST_STRETCHED:
        ratio = 1.0
    if ratio >= 1:
        return max(1, round(frame.width * ratio)), frame.height
    return frame.width, max(1, round(frame.height / ratio))
