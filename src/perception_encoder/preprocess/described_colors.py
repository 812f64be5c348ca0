"""Color profiles for colors that a file describes by numbers, as browsers convert them.

AVIF, HEIC and PNG name their primaries and their curve by code points (`nclx`, `cICP`: ITU-T
H.273), and PNG also gives a gamma and chromaticities (`gAMA`, `cHRM`: PNG, third edition, 11.3.2).
Layout of profiles: ICC.1:2022.
"""

import struct
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.preprocess.hdr import HLG, PQ, find_gain, to_light

Chromaticities: TypeAlias = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue, as in `cHRM`."""

_D65: Final = (0.3127, 0.3290)
_D50: Final = np.array([0.9642, 1.0, 0.8249])
_SRGB: Final = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_BT601: Final = (0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
_PRIMARIES: Final[dict[int, tuple[float, ...]]] = {
    1: _SRGB,
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: _BT601,
    7: _BT601,
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
# The curve of video cameras (1, 6, 14, 15) is shown as sRGB's, as most software does.
_SRGB_CURVES: Final = frozenset((1, 2, 6, 13, 14, 15))
_GAMMAS: Final = {4: 2.2, 5: 2.8, 8: 1.0}
_TABLE_SIZE: Final = 1024
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_GAMMA_LIMITS: Final = (0.05, 20.0)
_USUAL_GAMMA: Final = 2.2
_NEAR_USUAL: Final = 0.05  # libpng's PNG_GAMMA_THRESHOLD: below it, a gamma is taken for sRGB's
_NEAR_POINT: Final = 0.01  # chromaticities of sRGB are rounded in many ways


@lru_cache(maxsize=64)
def make_cicp_profile(primaries: int, transfer: int) -> bytes | None:
    """Return the ICC profile of code points of ITU-T H.273.

    HDR (PQ and HLG) is tone mapped to SDR: white paper stays bright, lights up to 1000 nits remain
    (Reinhard's curve on each channel).

    Args:
        primaries: `ColourPrimaries`; 2, unspecified, stands for those of sRGB.
        transfer: `TransferCharacteristics`; 2 likewise.

    Returns:
        None for code points that viewers do not convert either.
    """
    found = _PRIMARIES.get(1 if primaries == 2 else primaries)
    if found is None:
        return None
    if transfer in (PQ, HLG):
        curve = _table(_tone_mapped(transfer))
    elif transfer in _GAMMAS:
        curve = _power(_GAMMAS[transfer])
    elif transfer in _SRGB_CURVES:
        curve = _SRGB_CURVE
    else:
        return None
    return _make_profile((*_D65, *found), curve)


@lru_cache(maxsize=64)
def make_png_profile(
    gamma: float | None, chromaticities: Chromaticities | None = None
) -> bytes | None:
    """Return the ICC profile of a PNG's `gAMA` and `cHRM`.

    Args:
        gamma: of the file, such as 0.45455; None for sRGB's curve.
        chromaticities: None for those of sRGB.

    Returns:
        None for what no colors have.
    """
    if gamma is not None and not _GAMMA_LIMITS[0] <= gamma <= _GAMMA_LIMITS[1]:
        return None
    srgb = (*_D65, *_SRGB)
    points = chromaticities or srgb
    is_srgb = all(abs(a - b) < _NEAR_POINT for a, b in zip(points, srgb, strict=True))
    is_usual = gamma is not None and abs(gamma * _USUAL_GAMMA - 1) < _NEAR_USUAL
    curve = _SRGB_CURVE if gamma is None or (is_usual and is_srgb) else _power(1 / gamma)
    return _make_profile(points, curve)


def _make_profile(points: tuple[float, ...], curve: bytes) -> bytes | None:
    """Return a profile of three colors and one curve; None where there is no such space."""
    try:
        columns = _columns(points)
        tags = {
            b"wtpt": b"XYZ " + bytes(4) + _fixed(*_D50),
            **{
                name + b"XYZ": b"XYZ " + bytes(4) + _fixed(*columns[:, number])
                for number, name in enumerate((b"r", b"g", b"b"))
            },
            **{name + b"TRC": curve for name in (b"r", b"g", b"b")},
        }
    except (ArithmeticError, ValueError, struct.error, np.linalg.LinAlgError):
        return None
    text = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2, 28) + b"\0-\0\0"
    tags |= {b"desc": text, b"cprt": text}
    start = 128 + 4 + 12 * len(tags)
    places = dict[bytes, int]()  # the three curves are one
    content = b""
    for data in tags.values():
        if data not in places:
            places[data] = start + len(content)
            content += data + bytes(-len(data) % 4)
    table = b"".join(
        name + struct.pack(">II", places[data], len(data)) for name, data in tags.items()
    )
    head = struct.pack(
        ">I4sI4s4s4s", start + len(content), bytes(4), 0x0430_0000, b"mntr", b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + _fixed(*_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def _columns(points: tuple[float, ...]) -> NDArray[np.float64]:
    """Return XYZ of red, green and blue in the columns of (3, 3), adapted to D50.

    Raises:
        ZeroDivisionError, LinAlgError: there is no such space.
    """
    white, *colors = (
        np.array([x / y, 1.0, (1 - x - y) / y])
        for x, y in zip(points[::2], points[1::2], strict=True)
    )
    unscaled = np.stack(colors, axis=1)
    scaled = unscaled * np.linalg.solve(unscaled, white)
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ scaled
    return adapted


def _tone_mapped(transfer: int) -> NDArray[np.float64]:
    """Return the light of `_TABLE_SIZE` values of an HDR signal, between 0 and 1 of a display."""
    light = to_light(np.linspace(0, 1, _TABLE_SIZE), transfer)
    return np.clip(light * find_gain(light), 0, 1)


def _table(values: NDArray[np.float64]) -> bytes:
    levels = np.rint(65_535 * values).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(levels)) + levels.tobytes()


def _power(gamma: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(gamma)


def _fixed(*values: float) -> bytes:
    """Encode s15Fixed16 numbers.

    Raises:
        struct.error, ValueError, OverflowError: one has no such number.
    """
    return struct.pack(f">{len(values)}i", *(round(one * 65_536) for one in values))


_SRGB_CURVE: Final = (
    b"para"
    + bytes(4)
    + struct.pack(">HH", 3, 0)
    + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
)
