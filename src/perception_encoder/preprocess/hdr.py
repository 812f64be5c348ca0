"""The light of HDR signals, and what a display without HDR shows of it."""

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

PQ: Final = 16
"""SMPTE ST 2084, as `TransferCharacteristics` of ITU-T H.273."""

HLG: Final = 18
"""ITU-R BT.2100 HLG, as `TransferCharacteristics` of ITU-T H.273."""

_WHITE_NITS: Final = 203.0  # of paper (ITU-R BT.2408)
_PEAK_NITS: Final = 1000.0
_GRAY_CARD: Final = 1.25  # a gray card looks as in SDR
_Light = TypeVar("_Light", NDArray[np.float32], NDArray[np.float64])


def to_light(signal: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Return the light of a signal, where white paper is 1.

    Args:
        signal: values from 0 to 1.
        transfer: `PQ` or `HLG`; HLG as a display of 1000 nits shows it.
    """
    if transfer == PQ:
        power = signal ** (1 / 78.84375)
        nits = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
            1 / 0.1593017578125
        )
    else:
        scene = np.where(
            signal <= 0.5,
            signal**2 / 3,
            (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12,
        )
        nits = _PEAK_NITS * scene**1.2
    light: NDArray[np.float64] = nits / _WHITE_NITS
    return light


def find_gain(light: _Light) -> _Light:
    """Return what light is multiplied by: white paper stays bright, 1000 nits become 1.25.

    Reinhard's curve. Values above 1 are to be clipped.
    """
    peak = _PEAK_NITS / _WHITE_NITS
    return _GRAY_CARD * (1 + light / peak**2) / (1 + light)
