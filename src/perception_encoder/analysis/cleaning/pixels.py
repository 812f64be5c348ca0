"""Statistics of the pixels of images: how sharp, dark, bright, plain and detailed they are.

An image is shrunk so that its longer side has at most `SIDE` pixels, so that all measures are of
what a viewer sees at that size and do not grow with the resolution. A large JPEG is decoded only as
far as that needs.

Sharpness is measured by blurring once more: a sharp image loses most of the differences between
neighboring pixels, a blurred one keeps them (F. Crete et al., "The blur effect: perception and
estimation with a new no-reference perceptual blur metric", SPIE 6492, 2007). Unlike the variance of
the Laplacian, the ratio does not depend on contrast. It is taken for each of 16 tiles, and the
sharpest tiles count: a photo with a blurred background is a sharp one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder.embedder.pipeline import await_in_order
from perception_encoder.errors import ImageError
from perception_encoder.index import Row
from perception_encoder.preprocess.decode import decode_scaled
from perception_encoder.preprocess.images import num_usable_cores
from perception_encoder.preprocess.transforms import convert_to_rgb, to_opaque

SIDE: Final = 512
"""The longest side at which an image is measured, pixels."""

ReadImage: TypeAlias = Callable[[Row], bytes]
"""A function that returns an image's encoded bytes, and raises ImageError or OSError."""

_MIN_SIDE: Final = 32  # of an image whose blur can be measured
_TILES: Final = 4  # in each direction
_LEAST_DETAIL: Final = 0.25  # of the mean of all tiles; a tile of plain sky says nothing
_SHARPEST: Final = 0.1
_WINDOW: Final = 9
_SMALL: Final = 256  # side at which information is measured
_LEVELS_DROPPED: Final = 2  # bits of noise
_AHEAD: Final = 4  # images read in advance by each thread


class PixelStatistics(NamedTuple):
    """What the pixels of an image are like. Brightness is from 0 (black) to 1 (white), as encoded.

    Attributes:
        blur: the share of detail that another blur leaves, in the sharpest tiles, from 0 (sharp) to
            1; NaN for a plain or tiny image.
        darkest: brightness that 5 % of the pixels do not reach.
        brightest: brightness that 5 % of the pixels exceed.
        spread: difference between the 0.5 % and 99.5 % quantiles of the channel that varies most.
        information: bits for each pixel that its neighbors do not predict, from 0 to about 6.
    """

    blur: float
    darkest: float
    brightest: float
    spread: float
    information: float


def iter_statistics(
    rows: Iterable[Row], read: ReadImage
) -> Iterator[tuple[Row, PixelStatistics | ImageError | OSError]]:
    """Yield each row with the statistics of its image, or why it cannot be read, in order.

    Threads read and decode a few images ahead, one for each core.
    """
    num_threads = num_usable_cores()
    with ThreadPoolExecutor(num_threads) as pool:

        def submit(row: Row) -> Future[PixelStatistics | ImageError | OSError]:
            return pool.submit(_try_measuring, row, read)

        measured = await_in_order(submit, rows, num_threads * _AHEAD)
        try:
            with closing(measured):
                yield from measured
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _try_measuring(row: Row, read: ReadImage) -> PixelStatistics | ImageError | OSError:
    try:
        decoded = decode_scaled(read(row), item=row.name, min_side=SIDE)
        return measure_image(decoded.image, item=row.name)
    except (ImageError, OSError) as err:
        return err


def measure_image(image: Image.Image, *, item: str = "the image") -> PixelStatistics:
    """Return the statistics of a decoded image of any mode.

    Raises:
        ImageDecodeError: its mode cannot be converted.
    """
    image = convert_to_rgb(to_opaque(image, item=item), item=item)
    if max(image.size) > SIDE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    gray = image.convert("L")
    shares = np.cumsum(gray.histogram()) / (gray.width * gray.height)
    darkest, brightest = (int(np.searchsorted(shares, level)) / 255 for level in (0.05, 0.95))
    return PixelStatistics(
        blur=_measure_blur(np.asarray(gray, np.float32)),
        darkest=darkest,
        brightest=brightest,
        spread=_measure_spread(image),
        information=_measure_information(gray),
    )


def _measure_spread(image: Image.Image) -> float:
    counts = np.array(image.histogram()).reshape(-1, 256)
    shares = counts.cumsum(axis=1) / (image.width * image.height)
    return max(
        float(np.searchsorted(one, 0.995) - np.searchsorted(one, 0.005)) / 255 for one in shares
    )


def _measure_blur(levels: NDArray[np.float32]) -> float:
    """Return the share of differences that blurring leaves.

    Args:
        levels: (H, W) float32, from 0 to 255.
    """
    if min(levels.shape) < _MIN_SIDE:
        return float("nan")
    across, across_left = _differences(levels)
    down, down_left = (one.T for one in _differences(np.ascontiguousarray(levels.T)))
    details = across + down
    if details.sum() <= 0:
        return float("nan")
    # The direction that keeps more counts: a camera that moved blurs one direction only.
    shares = np.maximum(across_left / np.maximum(across, 1e-6), down_left / np.maximum(down, 1e-6))
    return float(np.quantile(shares[details >= _LEAST_DETAIL * details.mean()], _SHARPEST))


def _differences(
    levels: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two sums for each tile: of differences between columns, and of what blurring leaves.

    Args:
        levels: (H, W) float32.
    """
    before = np.abs(np.diff(levels, axis=1))
    padded = np.pad(levels, ((0, 0), (_WINDOW // 2 + 1, _WINDOW // 2)), mode="edge")
    sums = np.cumsum(padded, axis=1, dtype=np.float32)
    # The blurred row's difference is that of the columns that enter and leave the window.
    after = np.abs(np.diff(sums[:, _WINDOW:] - sums[:, :-_WINDOW], axis=1)) / _WINDOW
    return _sum_tiles(before), _sum_tiles(np.minimum(before, after))


def _sum_tiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    starts = [np.linspace(0, side, _TILES, endpoint=False).astype(int) for side in values.shape]
    rows = np.add.reduceat(values, starts[0], axis=0)
    return np.asarray(np.add.reduceat(rows, starts[1], axis=1), np.float32)


def _measure_information(gray: Image.Image) -> float:
    """Return the entropy of what the median edge detector fails to predict, bits a pixel.

    The predictor is that of JPEG-LS (M. Weinberger, G. Seroussi and G. Sapiro 2000). The entropy of
    the brightness itself would call a smooth gradient detailed.
    """
    if max(gray.size) > _SMALL:
        gray = gray.copy()
        gray.thumbnail((_SMALL, _SMALL), Image.Resampling.BOX)
    levels = np.asarray(gray).astype(np.int16) >> _LEVELS_DROPPED
    left, above, corner = levels[1:, :-1], levels[:-1, 1:], levels[:-1, :-1]
    predicted = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    errors = (levels[1:, 1:] - predicted).ravel()
    if not errors.size:
        return 0.0
    counts = np.bincount(errors + 64)
    shares = counts[counts > 0] / errors.size
    return max(0.0, float(-(shares * np.log2(shares)).sum()))
