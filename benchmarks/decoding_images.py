"""Large images made from the real photos, for the benchmark of decoding.

Photos of 12 megapixels are not part of any repository here, so they are made: photos scaled up,
with noise of a sensor on top; and pages of many photos at their own resolution, whose detail is
real.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image

TWELVE, TWENTY_FOUR = (4000, 3000), (6000, 4000)
_SENSOR_NOISE_LEVELS = 4.0


class Made(NamedTuple):
    """A file's bytes, the photo it shows, and how it was made."""

    kind: str
    photo: str
    data: bytes


def photos_in(folder: Path) -> dict[str, Image.Image]:
    """Open the photos of a folder as RGB, by name."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".jpeg"))
    return {path.name: Image.open(path).convert("RGB") for path in paths}


def enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale up, and add the noise that a camera's file of that size would have."""
    levels = np.asarray(image.resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(levels.shape[:2], np.float32)
    levels += _SENSOR_NOISE_LEVELS * noise[..., None]
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """Return the bytes of a file."""
    stream = io.BytesIO()
    if form == "HEIC":
        pillow_heif.from_pillow(image).save(stream, **options)
    else:
        image.save(stream, form, **options)
    return stream.getvalue()


def with_turn(image: Image.Image) -> bytes:
    """Return a JPEG that is stored on its side, as phones store portraits."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", quality=90, exif=exif)


def for_drift(folder: Path) -> Iterator[Made]:
    """Yield every photo as it is, enlarged in several ways, and pages of fine detail."""
    photos = photos_in(folder)
    for number, (name, image) in enumerate(photos.items()):
        yield Made("as it is", name, (folder / name).read_bytes())
        large = enlarged(image, TWELVE)
        for quality, subsampling in ((75, "4:2:0"), (95, "4:4:4")):
            data = encoded(large, "JPEG", quality=quality, subsampling=subsampling)
            yield Made(f"12 MP, quality {quality}, {subsampling}", name, data)
        if number % 2:
            larger = encoded(enlarged(image, TWENTY_FOUR), "JPEG", quality=90)
            yield Made("24 MP, quality 90, 4:2:0", name, larger)
            continue
        width, height = image.size
        crop = image.crop((width // 5, height // 6, 4 * width // 5 + 1, 3 * height // 4 + 1))
        odd = enlarged(crop, (4001, 2995))
        yield Made("crop of odd sides, 12 MP, quality 90", name, encoded(odd, "JPEG", quality=90))
    for number in range(4):
        page = encoded(_page(list(photos.values()), number), "JPEG", quality=92)
        yield Made("page of photos at their own resolution, 12 MP", f"page {number}", page)
    for period in (3, 5, 8):
        lines = encoded(_lines(period), "JPEG", quality=92)
        yield Made("page of fine lines, 12 MP", f"lines {period}", lines)


def _page(photos: list[Image.Image], number: int) -> Image.Image:
    random = np.random.default_rng(number)
    page = Image.new("RGB", TWELVE, (255, 255, 255))
    for top in range(0, TWELVE[1], 600):
        for left in range(0, TWELVE[0], 800):
            photo = photos[int(random.integers(len(photos)))]
            x = int(random.integers(max(1, photo.width - 800)))
            y = int(random.integers(max(1, photo.height - 600)))
            page.paste(
                photo.crop((x, y, min(x + 800, photo.width), min(y + 600, photo.height))),
                (left, top),
            )
    return page


def _lines(period: int) -> Image.Image:
    """Return what is hardest for a filter: black and white lines a few pixels apart."""
    y, x = np.mgrid[: TWELVE[1], : TWELVE[0]]
    rings = np.hypot(x - 1500, y - 1200).astype(np.int32) // period % 2
    return Image.fromarray((255 * rings).astype(np.uint8)).convert("RGB")
