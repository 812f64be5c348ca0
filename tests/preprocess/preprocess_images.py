"""Images made by code, and their bytes in every format the preprocessing reads."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
from PIL import Image


def scene(width: int = 40, height: int = 28) -> Image.Image:
    """An image without symmetry: color ramps, a little noise, a dark block near a corner."""
    y, x = np.mgrid[:height, :width]
    red = 255 * x // max(width - 1, 1)
    green = 255 * y // max(height - 1, 1)
    blue = 255 - (red + green) // 2
    pixels = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    pixels ^= random_rgb(width, height) & 15
    pixels[: height // 4, : width // 3] = (10, 20, 60)
    return Image.fromarray(pixels)


def random_rgb(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if file_format == "HEIC":
        # Not `register_heif_opener`: the tests check that Pillow's own tables stay as they are.
        pillow_heif.from_pillow(image).save(buffer, quality=-1, **options)
    else:
        image.save(buffer, file_format, **options)
    return buffer.getvalue()


def every_format() -> dict[str, bytes]:
    image = scene()
    return {
        "jpeg": encode(image, "JPEG", quality=92),
        "jpeg-progressive": encode(image, "JPEG", progressive=True, quality=92),
        "jpeg-gray": encode(image.convert("L"), "JPEG"),
        "jpeg-cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG"),
        "png-palette": encode(image.quantize(16), "PNG"),
        "png-1-bit": encode(image.convert("1"), "PNG"),
        "webp": encode(image, "WEBP", quality=90),
        "webp-lossless": encode(image, "WEBP", lossless=True),
        "gif": encode(image, "GIF"),
        "bmp": encode(image, "BMP"),
        "tiff": encode(image, "TIFF"),
        "tiff-lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "avif": encode(image, "AVIF"),
        "heic": encode(image, "HEIC"),
        "jpeg2000": encode(image, "JPEG2000"),
        "ppm": encode(image, "PPM"),
    }


FORMATS = every_format()


def png(
    rows: list[bytes],
    *,
    width: int,
    bit_depth: int,
    color_type: int,
    transparency: bytes = b"",
    height: int | None = None,
) -> bytes:
    """A PNG written by hand, for what Pillow does not write (tRNS keys, 16 bits, false sizes)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    size = (width, len(rows) if height is None else height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bit_depth, color_type, 0, 0, 0))
    key = chunk(b"tRNS", transparency) if transparency else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + key + data + chunk(b"IEND", b"")
