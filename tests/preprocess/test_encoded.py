"""Files and bytes: every format decodes, and every kind of damage has its own error."""

import errno
import io
import os
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, WebPImagePlugin
from preprocess.preprocess_images import FORMATS, encode, png, scene

from perception_encoder.errors import (
    ImageDecodeError,
    ImageEmptyError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
)
from perception_encoder.preprocess import DEFAULT_MAX_PIXELS, decode_image
from perception_encoder.preprocess.encoded import decode_stream

LOSSLESS = ["png", "webp-lossless", "bmp", "tiff", "tiff-lzw", "ppm", "jpeg2000"]


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_the_same_from_bytes_and_from_a_file(name: str, tmp_path: Path):
    path = tmp_path / "image"  # no extension: formats are told by their first bytes
    path.write_bytes(FORMATS[name])
    from_bytes = decode_image(FORMATS[name])
    for same in (path, str(path)):
        np.testing.assert_array_equal(rgb(decode_image(same)), rgb(from_bytes))
    for kind in (bytearray, memoryview):
        np.testing.assert_array_equal(rgb(decode_image(kind(FORMATS[name]))), rgb(from_bytes))


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_exact_pixels(name: str):
    np.testing.assert_array_equal(rgb(decode_image(FORMATS[name])), np.asarray(scene()))


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "jpeg-cmyk", "webp", "avif", "heic"])
def test_lossy_formats_give_nearly_the_pixels(name: str):
    error = np.abs(rgb(decode_image(FORMATS[name])).astype(int) - np.asarray(scene()))
    assert error.mean() < 6, "colors are wrong, not only compressed"


def test_a_ycck_jpeg_has_the_right_colors():
    # Pillow writes CMYK only (as Photoshop does: inverted), so the planes of YCCK, which is the
    # YCbCr of the ink, are written as such and the Adobe marker's transform byte is set to 2.
    color = (200, 60, 30)
    ink = tuple(255 - level for level in color)
    inverted = [255 - level for level in Image.new("RGB", (1, 1), ink).convert("YCbCr").tobytes()]
    planes = [Image.new("L", (32, 32), level) for level in inverted]
    black = Image.new("L", (32, 32), 0)
    data = encode(Image.merge("CMYK", (*planes, black)), "JPEG", quality=98)
    marker = data.index(b"Adobe")
    data = data[: marker + 11] + b"\x02" + data[marker + 12 :]
    assert decode_image(data).mode == "CMYK"
    error = np.abs(rgb(decode_image(data)).astype(int) - color)
    assert error.max() <= 6


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_an_animation_gives_its_first_frame(file_format: str):
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "lime", "blue")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    pixels = rgb(decode_image(data))
    assert pixels.shape == (12, 16, 3)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4


def test_the_first_image_of_a_multi_image_jpeg_is_taken():
    data = encode(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 28))])
    np.testing.assert_array_equal(rgb(decode_image(data)), rgb(Image.open(io.BytesIO(data))))


def test_zero_bytes_are_an_empty_image(tmp_path: Path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(ImageEmptyError, match=r"empty\.jpg"):
        decode_image(path)
    with pytest.raises(ImageEmptyError, match="image 3 of the batch"):
        decode_image(b"", item="image 3 of the batch")


@pytest.mark.parametrize(
    "data",
    [b"x", b"<!DOCTYPE html><html></html>", b"%PDF-1.7\n" + bytes(99), bytes(5000)],
    ids=["one byte", "web page", "pdf", "zeros"],
)
def test_data_that_is_no_image_is_named_with_its_first_bytes(data: bytes):
    with pytest.raises(ImageDecodeError, match="not an image in a known format") as caught:
        decode_image(data)
    assert repr(data[:16]) in str(caught.value)
    assert not isinstance(caught.value, ImageTruncatedError)


def test_postscript_is_not_handed_to_an_interpreter():
    with pytest.raises(ImageDecodeError, match="not an image in a known format"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of a TIFF without its directory
@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_is_truncated_and_not_half_an_image(name: str, fraction: float, tmp_path: Path):
    path = tmp_path / "cut.img"
    path.write_bytes(FORMATS[name][: int(len(FORMATS[name]) * fraction)])
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageTruncatedError) as caught:
            decode_image(source, item="cut.img")
        assert "cut.img" in str(caught.value)
        assert "cut.img" in (caught.value.item or "")


def test_a_box_with_a_64_bit_length_is_seen_to_be_cut():
    whole = FORMATS["heic"]
    start = whole[: int.from_bytes(whole[:4], "big")]
    cut = start + struct.pack(">I4sQ", 1, b"mdat", 5_000_000_000) + bytes(50)
    with pytest.raises(ImageTruncatedError):
        decode_image(cut)
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(start + bytes(50))
    assert not isinstance(caught.value, ImageTruncatedError)


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_a_container_with_the_common_brand_is_tried_as_both(name: str):
    data = FORMATS[name][:8] + b"mif1" + FORMATS[name][12:]
    assert b"avif" in data or b"heic" in data[12:40], "the real brand must still be listed"
    np.testing.assert_array_equal(rgb(decode_image(data)), rgb(decode_image(FORMATS[name])))


def test_a_failing_disk_is_not_called_a_damaged_image():
    class FailingDisk(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if size != 16:  # the first bytes, by which the format is told, can still be read
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    data = FORMATS["png"]
    with pytest.raises(ImageUnreadableError, match=r"nas/a\.png: reading failed: .*output error"):
        decode_stream(FailingDisk(data), num_bytes=len(data), max_pixels=9999, item="nas/a.png")


def test_damage_in_the_middle_is_not_called_truncation():
    data = bytearray(FORMATS["png"])
    middle = data.index(b"IDAT") + 8
    data[middle : middle + 40] = bytes(40)
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(bytes(data))
    assert not isinstance(caught.value, ImageTruncatedError)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("warnings_are", ["ignore", "error"])  # Pillow warns of odd metadata
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_decode_or_raise_an_image_error(
    name: str, warnings_are: Literal["ignore", "error"], data: st.DataObject
):
    broken = bytearray(FORMATS[name])
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter(warnings_are)
        try:
            image = decode_image(bytes(broken), max_pixels=100_000, item="fuzz")
        except ImageError as err:
            item = err.item
        else:
            item = "fuzz"
            assert image.width * image.height <= 100_000
    assert item == "fuzz"


def huge_headers() -> dict[str, bytes]:
    """Small files that announce billions of pixels (WebP: as many as it can)."""
    jpeg = bytearray(FORMATS["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    bmp = bytearray(FORMATS["bmp"])
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    gif = bytearray(FORMATS["gif"])
    gif[6:10] = b"\xff\xff\xff\xff"
    tiff = bytearray(FORMATS["tiff"])
    for tag in (256, 257):
        entry = tiff.index(struct.pack("<HH", tag, 4))
        tiff[entry + 8 : entry + 12] = struct.pack("<I", 60_000)
    extended = b"\x00" * 4 + (16_383).to_bytes(3, "little") * 2
    chunks = b"VP8X" + struct.pack("<I", 10) + extended + FORMATS["webp"][12:]
    webp = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    return {
        "png": png([b"\0"], width=100_000, height=100_000, bit_depth=8, color_type=0),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "tiff": bytes(tiff),
        "webp": webp,
        "ppm": b"P6 100000 100000 255\n" + bytes(12),
    }


@pytest.mark.parametrize("name", huge_headers())
def test_a_small_file_with_a_huge_header_is_refused_at_once(name: str):
    start = time.process_time()  # not the wall's: another program may be busy
    with pytest.raises(ImageTooLargeError, match="pixels") as caught:
        decode_image(huge_headers()[name], item="image 0 of the batch")
    assert "image 0 of the batch" in str(caught.value)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", FORMATS)
def test_the_limit_is_inclusive_and_the_message_gives_both_numbers(name: str):
    num_pixels = 40 * 28
    assert decode_image(FORMATS[name], max_pixels=num_pixels).size == (40, 28)
    with pytest.raises(ImageTooLargeError, match=f"{num_pixels} pixels.*{num_pixels - 1}"):
        decode_image(FORMATS[name], max_pixels=num_pixels - 1)


@pytest.mark.parametrize("limit", [500, 900])  # beyond, and within twice, Pillow's own limit
@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"webp", "webp-lossless"}))
def test_pillows_own_limit_neither_warns_nor_refuses(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
):
    expected = rgb(decode_image(FORMATS[name]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    np.testing.assert_array_equal(rgb(decode_image(FORMATS[name])), expected)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(not hasattr(WebPImagePlugin, "_get_size"), reason="older Pillows do not check")
def test_pillows_refusal_of_a_webp_becomes_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ImageTooLargeError, match=r"image 5: .*1120 pixels"):
        decode_image(FORMATS["webp"], item="image 5")


def test_a_turned_tiff_above_pillows_limit_keeps_its_pixels(monkeypatch: pytest.MonkeyPatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(scene(), "TIFF", exif=exif)
    expected = np.asarray(decode_image(data))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    decoded = decode_image(data)
    assert decoded.size == (28, 40)
    np.testing.assert_array_equal(np.asarray(decoded), expected)


def test_the_default_limit_admits_a_photo_of_108_megapixels():
    assert 12_000 * 9_000 <= DEFAULT_MAX_PIXELS < 2**28


def test_a_missing_file_is_not_found_by_both_names(tmp_path: Path):
    with pytest.raises(ImageNotFoundError, match=r"image 2 of the batch \(.*gone\.jpg\)"):
        decode_image(tmp_path / "gone.jpg", item="image 2 of the batch")
    with pytest.raises(FileNotFoundError):
        decode_image(str(tmp_path / "no" / "folder.jpg"))
    with pytest.raises(ImageNotFoundError):
        decode_image("null\0byte.jpg")


def test_a_path_that_cannot_exist_is_unreadable():
    with pytest.raises(ImageUnreadableError, match="cannot be opened") as caught:
        decode_image("a" * 5000)
    assert len(str(caught.value.item)) < 300


def test_a_folder_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(ImageUnreadableError, match="a folder; pass the path of one image") as error:
        decode_image(tmp_path)
    assert error.value.item == str(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_and_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageUnreadableError, match="not a regular file"):
        decode_image(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_without_permission_is_unreadable(tmp_path: Path):
    path = tmp_path / "secret.png"
    path.write_bytes(FORMATS["png"])
    path.chmod(0)
    with pytest.raises(ImageUnreadableError, match=r"secret\.png"):
        decode_image(path)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/cat.jpg",
        "HTTP://example.org/cat.jpg",
        "s3://bucket/cat.jpg",
        "file:///tmp/cat.jpg",
        Path("https://example.org/cat.jpg"),
        "data:image/png;base64," + "iVBORw0KGgo" * 2000,
    ],
)
def test_urls_are_refused_with_the_advice_to_download(url: str | Path):
    with pytest.raises(ImageUnreadableError, match="download it") as caught:
        decode_image(url)
    assert len(str(caught.value)) < 400, "a data URI must not flood the log"


def test_a_file_whose_name_looks_like_a_url_is_still_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("data:cat.png").write_bytes(FORMATS["png"])
    assert decode_image("data:cat.png").size == (40, 28)


def test_files_are_closed_again(tmp_path: Path):
    good, bad = tmp_path / "good.webp", tmp_path / "bad.webp"
    good.write_bytes(FORMATS["webp"])
    bad.write_bytes(FORMATS["webp"][:-20])
    decode_image(good)  # an open file would be a ResourceWarning, and so an error
    with pytest.raises(ImageTruncatedError):
        decode_image(bad)
    good.unlink()
    bad.unlink()


def test_heic_leaves_pillows_tables_alone():
    before = dict(Image.OPEN)
    decode_image(FORMATS["heic"])
    assert before == Image.OPEN


def test_heic_without_its_package_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageDecodeError, match=r"phone\.heic.*perception-encoder\[heic\]"):
        decode_image(FORMATS["heic"], item="phone.heic")
