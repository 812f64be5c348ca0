"""Makes small images in the modes and shapes that preprocessing trips over.

Their pixels come from `tests/formula.py`, so they are nobody's and need no license. Knows nothing
about models.
"""

from pathlib import Path

import formula
from PIL import Image


def write(folder: Path) -> None:
    """Write every image into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _color(folder)
    _gray(folder)
    _alpha(folder)
    _palette(folder)


def _make(name: str, width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = formula.image(name, height, width, channels)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def _color(folder: Path) -> None:
    """Color files: larger and smaller than the model's input, wide, tall, turned by EXIF, CMYK."""
    _make("wide", 320, 240).save(folder / "wide.jpg", quality=80)
    _make("tall", 45, 81).save(folder / "tall.png")
    _make("tiny", 3, 2).save(folder / "tiny.png")
    _make("webp", 100, 75).save(folder / "lossy.webp", quality=80)
    _make("panorama", 400, 50).save(folder / "panorama.jpg", quality=80)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the original ignores it
    _make("turned", 64, 40).save(folder / "turned.jpg", quality=85, exif=exif)
    _make("cmyk", 48, 36, 4).convert("CMYK").save(folder / "cmyk.jpg", quality=85)


def _gray(folder: Path) -> None:
    """One channel: 8 bits, 1 bit."""
    _make("grey", 70, 50, 1).save(folder / "grey.png")
    _make("bilevel", 60, 44, 1).convert("1").save(folder / "bilevel.png")


def _alpha(folder: Path) -> None:
    """Alpha that varies: resizing before the conversion to RGB is not the same as after."""
    _make("rgba", 50, 40, 4).save(folder / "rgba.png")
    gray, alpha = _make("grey-alpha", 40, 30, 1), _make("grey-alpha/alpha", 40, 30, 1)
    Image.merge("LA", (gray, alpha)).save(folder / "grey_alpha.png")


def _palette(folder: Path) -> None:
    """Palettes: Pillow resizes these by nearest neighbor whatever filter is asked for."""
    image = _make("palette", 64, 48).quantize(32)
    image.save(folder / "palette.png")
    image.save(folder / "palette_transparent.png", transparency=3)
    image.save(folder / "palette.gif")
