"""ICC profiles written by code, from the primaries and curves of well-known color spaces."""

import struct

import numpy as np

_D50 = (0.9642, 1.0, 0.8249)
_D65 = (0.3127, 0.3290)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
REC2020_PRIMARIES = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))


def colorants(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """(3, 3): XYZ of red, green and blue in columns, adapted from D65 to D50."""

    def xyz(x: float, y: float) -> np.ndarray:
        return np.array([x / y, 1, (1 - x - y) / y])

    unscaled = np.stack([xyz(*one) for one in primaries], axis=1)
    white = xyz(*_D65)
    scaled = unscaled * np.linalg.solve(unscaled, white)
    gains = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ scaled


def _s15(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(one * 65_536) for one in values))


def curve(gamma: float | None) -> bytes:
    """A tone curve: a power, or sRGB's."""
    if gamma is None:
        return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _s15(
            2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
        )  # fmt: skip
    return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _s15(gamma)


def profile(
    space: bytes, tags: dict[bytes, bytes], *, kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    text = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 8, 28)
    text += "test".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ " + bytes(4) + _s15(*_D50), **tags}
    place = 128 + 4 + 12 * len(tags)
    table, content = b"", b""
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += name + struct.pack(">II", place + len(content), len(data))
        content += padded
    size = place + len(content)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x0430_0000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(24) + struct.pack(">I", 0) + _s15(*_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def rgb_profile(
    primaries: tuple[tuple[float, float], ...], gamma: float | None = None, **more: object
) -> bytes:
    columns = colorants(primaries)
    tags = {
        name + b"XYZ": b"XYZ " + bytes(4) + _s15(*columns[:, number])
        for number, name in enumerate((b"r", b"g", b"b"))
    }
    tags |= {name + b"TRC": curve(gamma) for name in (b"r", b"g", b"b")}
    return profile(b"RGB ", {**tags, **more.pop("tags", {})}, **more)


def gray_profile(gamma: float | None) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve(gamma)})


def cmyk_profile() -> bytes:
    """Ink on paper, simply: each ink takes its color away; paper is white; black ink is black."""
    levels = np.array([0.0, 1.0])
    cyan, magenta, yellow, black = np.meshgrid(levels, levels, levels, levels, indexing="ij")
    linear = np.stack([1 - 0.9 * cyan, 1 - 0.8 * magenta, 1 - 0.7 * yellow], axis=-1)
    linear *= (1 - 0.95 * black)[..., None]
    xyz = linear @ colorants(SRGB_PRIMARIES).T / np.array(_D50)
    root = np.where(xyz > 216 / 24_389, np.cbrt(xyz), (24_389 / 27 * xyz + 16) / 116)
    lab = np.stack(
        [116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]),
         200 * (root[..., 1] - root[..., 2])], axis=-1,
    )  # fmt: skip
    encoded = np.stack(
        [lab[..., 0] * 65_280 / 100, *((lab[..., n] + 128) * 256 for n in (1, 2))], -1
    )
    table = np.clip(np.rint(encoded), 0, 65_535).astype(">u2").tobytes()
    straight = struct.pack(">HH", 0, 65_535)
    lut = b"mft2" + bytes(4) + bytes((4, 3, 2, 0)) + _s15(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += struct.pack(">HH", 2, 2) + straight * 4 + table + straight * 3
    return profile(b"CMYK", {b"A2B0": lut}, kind=b"prtr", connection=b"Lab ")


SRGB = rgb_profile(SRGB_PRIMARIES)
DISPLAY_P3 = rgb_profile(P3_PRIMARIES)
ADOBE_RGB = rgb_profile(ADOBE_PRIMARIES, 563 / 256)
REC2020 = rgb_profile(REC2020_PRIMARIES, 2.4)
