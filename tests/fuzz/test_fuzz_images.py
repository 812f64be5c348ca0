"""Any bytes become an image or an ImageError, within the memory that is stated."""

import io
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pylibjxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from preprocess import camera_files

from perception_encoder.errors import ImageError
from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess.transforms import to_rgb, turn_upright

MAX_PIXELS = 1_000_000
# 24 bytes a pixel, as stated, and what the interpreter and the decoders' threads need.
MAX_BYTES = 24 * MAX_PIXELS + 200 * 2**20


def scene(width: int = 40, height: int = 28) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels[:9] = (200, 60, 30)
    return Image.fromarray(pixels)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    if file_format == "HEIC":
        pillow_heif.from_pillow(image).save(out, **options)
    else:
        image.copy().save(out, file_format, **options)
    return out.getvalue()


def every_kind() -> dict[str, bytes]:
    image = scene()
    alpha = image.copy()
    alpha.putalpha(image.convert("L"))

    def save_all(file_format: str) -> bytes:
        frames = [scene(), scene()]  # saving leaves settings on an image
        return encode(image, file_format, save_all=True, append_images=frames)

    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "jpeg": encode(image, "JPEG", exif=exif, comment=b"a comment", icc_profile=b"profile"),
        "jpeg-progressive": encode(image, "JPEG", progressive=True, xmp=b"<x/>"),
        "jpeg-restarts": encode(image, "JPEG", restart_marker_blocks=1),
        "jpeg-cmyk": encode(image.convert("CMYK"), "JPEG"),
        "jpeg-many": save_all("MPO"),
        "png": encode(alpha, "PNG", exif=exif, icc_profile=b"profile"),
        "png-palette": encode(image.quantize(16), "PNG", transparency=3),
        "png-16": encode(Image.fromarray(np.arange(999, dtype=np.uint16).reshape(27, 37)), "PNG"),
        "png-animated": save_all("PNG"),
        "webp": encode(alpha, "WEBP", exif=exif),
        "webp-lossless": encode(image, "WEBP", lossless=True),
        "webp-animated": save_all("WEBP"),
        "gif": encode(image.quantize(16), "GIF", transparency=3, comment=b"a comment"),
        "gif-animated": save_all("GIF"),
        "bmp": encode(image, "BMP"),
        "bmp-palette": encode(image.quantize(16), "BMP"),
        "bmp-rle": rle_bmp(),
        "tiff": encode(alpha, "TIFF", exif=exif),
        "tiff-pages": save_all("TIFF"),
        "big-tiff": encode(image, "TIFF", big_tiff=True),
        "avif": encode(alpha, "AVIF", exif=exif.tobytes()),
        "avif-animated": save_all("AVIF"),
        "heic": encode(image, "HEIC", exif=exif.tobytes()),
        "jpeg2000": encode(alpha, "JPEG2000"),
        "jpeg2000-tiled": encode(image, "JPEG2000", no_jp2=True, tile_size=(16, 16)),
        "ppm": encode(image, "PPM"),
        "ppm-1000": b"P6 4 3 1000\n" + bytes(72),
        "ppm-plain": b"P3 # c\n2 2 255\n" + b"1 22 255 # comment\n" * 4,
        "pbm-plain": b"P1 4 2\n10 1 0\n01#\n01\n",
        "jxl": pylibjxl.encode(np.asarray(alpha), exif=exif.tobytes()),
        "jxl-jpeg": pylibjxl.jpeg_to_jxl(encode(image, "JPEG", exif=exif)),
        "raw-preview": camera_files.nef(image, encode(scene(226, 224), "JPEG"), orientation=6),
        "raw-boxes": camera_files.cr3(encode(scene(226, 224), "JPEG"), orientation=8),
        "raw-developed": camera_files.dng(image, orientation=6),
        "pfm": b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", 0, 0.5, 1, 0.2),
    }
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma"):
        kinds[f"tiff-{compression}"] = encode(image, "TIFF", compression=compression)
    for compression in ("group3", "group4"):
        bits = image.convert("1")
        kinds[f"tiff-{compression}"] = encode(bits, "TIFF", compression=compression)
    return kinds


def rle_bmp() -> bytes:
    rows = b"\x0a\x01\x00\x03\x02\x03\x04\x00\x00\x02\x01\x00\x00\x00" * 4 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 16, 4, 1, 8, 1, len(rows), 0, 0, 8, 0) + bytes(range(32))
    return (
        b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows
    )


KINDS = every_kind()
# Numbers that sizes, counts and offsets are broken with.
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("byte", "number", "cut", "repeat", "drop", "insert"))):
            case "byte":
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                order = draw(st.sampled_from("<>"))
                data[place : place + 4] = struct.pack(order + "I", draw(st.sampled_from(NUMBERS)))
            case "cut":
                del data[place:]
            case "repeat":
                size = draw(st.integers(1, 200))
                part = data[place : place + size]
                data[place:place] = part * draw(st.integers(1, 50))
            case "drop":
                del data[place : place + draw(st.integers(1, 50))]
            case "insert":
                data[place:place] = draw(st.binary(max_size=50))
    return bytes(data)


def use(data: bytes) -> None:
    """Decode as every user of the preprocessing does, and check what comes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of malformed metadata
        try:
            image = to_rgb(
                turn_upright(decode_image(data, max_pixels=MAX_PIXELS, item="it")), item="it"
            )
        except ImageError as err:
            error = err
        else:
            assert image.mode in {"RGB", "L"}
            assert 0 < image.width * image.height <= MAX_PIXELS
            return
    assert error.item == "it"
    assert str(error).startswith("it: ")


@pytest.fixture
def memory() -> Iterator[None]:
    """Fail a test that needs more memory than MAX_BYTES at any time."""
    if sys.platform != "linux":
        yield
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        pytest.skip("the peak of memory cannot be reset here")
    before = peak()
    yield
    assert peak() - before < MAX_BYTES


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("memory")
@settings(
    suppress_health_check=list(HealthCheck), max_examples=max(10, settings().max_examples // 3)
)
@given(data=st.data())
def test_a_mutated_image_is_an_image_or_our_error(kind: str, data: st.DataObject):
    use(data.draw(mutated(KINDS[kind])))


@pytest.mark.usefixtures("memory")
@settings(suppress_health_check=list(HealthCheck))
@given(start=st.sampled_from([kind[:32] for kind in KINDS.values()]), rest=st.binary(max_size=300))
def test_any_bytes_after_a_known_start_are_an_image_or_our_error(start: bytes, rest: bytes):
    for size in (0, 4, 8, 12, 32):
        use(start[:size] + rest)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_is_mutated_is_an_image(kind: str):
    assert decode_image(KINDS[kind]).width > 0
