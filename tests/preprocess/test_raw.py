"""RAW files show the largest JPEG that the camera stored in them, upright."""

import base64
import io
import struct
import sys
import time

import numpy as np
import pytest
import rawpy
from PIL import Image
from preprocess import camera_files
from preprocess.preprocess_images import random_rgb, scene

from perception_encoder.errors import ImageDecodeError, ImageTooLargeError
from perception_encoder.preprocess import ImageProcessor, decode_image, isolated
from perception_encoder.preprocess.raw import find_preview, is_raw
from perception_encoder.registry import ImageConfig

SCENE = scene(320, 240)
JPEG = camera_files.jpeg(SCENE)
SMALL = camera_files.jpeg(scene(240, 224))
PROCESSOR = ImageProcessor(ImageConfig(), 64)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


CAMERAS = {
    "dng": lambda turn: camera_files.dng(SCENE, [SMALL, JPEG], orientation=turn),
    "dng-big-endian": lambda turn: camera_files.dng(SCENE, [JPEG], orientation=turn, order=">"),
    "nef": lambda turn: camera_files.nef(SCENE, JPEG, orientation=turn),
    "arw": lambda turn: camera_files.arw(SCENE, JPEG, orientation=turn),
    "cr2": lambda turn: camera_files.cr2(SCENE, JPEG, orientation=turn),
    "cr3": lambda turn: camera_files.cr3(SMALL, JPEG, orientation=turn),
    "rw2": lambda turn: camera_files.rw2(SCENE, JPEG, orientation=turn),
    "orf": lambda turn: camera_files.orf(SCENE, JPEG, orientation=turn),
    "raf": lambda turn: camera_files.raf(SCENE, camera_files.jpeg(SCENE, exif=exif(turn))),
}


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("turn", [1, 6])
def test_the_largest_preview_is_shown_as_the_camera_was_held(camera, turn):
    data = CAMERAS[camera](turn)
    expected = PROCESSOR(camera_files.jpeg(SCENE, exif=exif(turn)))
    measured = PROCESSOR.resize_measured(data)
    assert np.array_equal(measured.pixels, expected)
    assert (measured.width, measured.height) == ((320, 240) if turn == 1 else (240, 320))


@pytest.mark.parametrize("camera", ["dng", "nef", "arw", "cr2"])
def test_libraw_finds_the_same_preview(camera):
    with rawpy.imread(io.BytesIO(CAMERAS[camera](8))) as raw:
        found = Image.open(io.BytesIO(raw.extract_thumb().data))
    ours = decode_image(CAMERAS[camera](8))
    assert found.tobytes() == ours.tobytes()
    assert found.getexif()[0x0112] == ours.getexif()[0x0112] == 8


@pytest.mark.parametrize("camera", CAMERAS)
def test_exiftool_finds_the_same_preview_and_orientation(camera, exiftool, tmp_path):
    """A reader that nobody here wrote takes the files for what they are named after."""
    suffix = camera.partition("-")[0]
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(CAMERAS[camera](6))
    images = ("PreviewImage", "JpgFromRaw", "OtherImage")
    wanted = [f"-{name}" for name in ("FileType", "Orientation", *images)]
    (found,) = exiftool("-json", "-binary", "-n", *wanted, path, as_json=True)
    assert (found["FileType"], found["Orientation"]) == (suffix.upper(), 6)
    previews = [
        base64.b64decode(found[name].removeprefix("base64:")) for name in images if name in found
    ]
    expected = {
        "cr3": SMALL,  # the larger one is a sample of a track, which these files do not have
        "raf": camera_files.jpeg(SCENE, exif=exif(6)),
    }
    assert expected.get(suffix, JPEG) in previews


def test_a_preview_that_knows_its_orientation_is_not_turned_twice():
    upright = camera_files.jpeg(SCENE, exif=exif(1))
    image = decode_image(camera_files.dng(SCENE, [upright], orientation=6))
    assert image.getexif()[0x0112] == 1


def test_a_path_is_decoded_as_its_bytes_are(tmp_path):
    path = tmp_path / "IMG_0001.CR2"
    path.write_bytes(CAMERAS["cr2"](6))
    assert np.array_equal(PROCESSOR(path), PROCESSOR(path.read_bytes()))


def test_fast_decodes_a_preview_at_a_part_of_its_size():
    fast = ImageProcessor(PROCESSOR.config, 64, preprocess="fast")
    data = camera_files.nef(SCENE, camera_files.jpeg(scene(1024, 768)), orientation=6)
    measured = fast.resize_measured(data)
    assert (measured.width, measured.height) == (768, 1024)
    assert np.abs(measured.pixels.astype(int) - PROCESSOR(data)).mean() < 3


def test_parts_of_the_sensors_data_are_no_preview():
    """A DNG may store the data as JPEG tiles, each larger than the preview."""
    tile = camera_files.jpeg(Image.fromarray(random_rgb(512, 512)))
    tiff = camera_files.Tiff()
    places = [tiff.add(tile), tiff.add(tile)]
    data = tiff.directory(
        [(254, 4, 0), (256, 4, 1024), (257, 4, 512), (258, 3, [8, 8, 8]), (259, 3, 7),
         (262, 3, 34_892), (277, 3, 3), (322, 4, 512), (323, 4, 512), (324, 4, places),
         (325, 4, [len(tile)] * 2)]
    )  # fmt: skip
    preview = tiff.add(JPEG)
    first = tiff.directory(
        [(50_706, 1, bytes((1, 4, 0, 0))), (330, 4, [data]), (513, 4, preview), (514, 4, len(JPEG))]
    )
    assert decode_image(tiff.finish(first)).size == (320, 240)


@pytest.mark.parametrize("order", ["<", ">"])
def test_other_tiffs_are_no_raw_files(order):
    buffer = io.BytesIO()
    pages = [SCENE, SCENE.convert("L")]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    assert not is_raw(buffer)
    tiff = camera_files.Tiff(order)
    assert not is_raw(io.BytesIO(tiff.finish(0)))
    assert not is_raw(io.BytesIO(tiff.finish(2**31)))
    assert not is_raw(io.BytesIO(b"II*\0"))


class TestWithoutAPreview:
    def test_the_sensors_data_is_developed_at_half_its_size(self):
        gray = Image.new("RGB", (320, 240), (120, 120, 120))
        gray.paste((230, 40, 30), (0, 0, 160, 120))
        image = decode_image(camera_files.dng(gray, orientation=6))
        assert (image.mode, image.size) == ("RGB", (120, 160))
        red, green, blue = image.getpixel((100, 20))  # the upper left corner, turned to the right
        assert red > 2 * green
        assert red > 2 * blue

    def test_a_tiny_preview_is_none(self):
        tiny = camera_files.jpeg(scene(160, 120))
        assert decode_image(camera_files.dng(SCENE, [tiny])).size == (160, 120)
        assert find_preview(camera_files.dng(SCENE, [tiny])) is None

    def test_more_pixels_than_the_limit_are_refused_before_they_are_read(self):
        with pytest.raises(ImageTooLargeError, match="76800 pixels"):
            decode_image(camera_files.dng(SCENE), max_pixels=76_799, item="a.dng")

    def test_what_libraw_cannot_read_is_damaged(self):
        with pytest.raises(ImageDecodeError, match=r"a\.rw2: the data is damaged"):
            decode_image(b"IIU\0" + bytes(500), item="a.rw2")

    def test_without_the_extra_the_error_names_it(self, monkeypatch):
        monkeypatch.setattr("sys.path", [one for one in sys.path if "site-packages" not in one])
        isolated.close_children()
        with pytest.raises(ImageDecodeError, match=r"perception-encoder\[raw\]"):
            decode_image(camera_files.dng(SCENE))
        assert decode_image(camera_files.dng(SCENE, [JPEG])).size == (320, 240)
        isolated.close_children()


def test_a_preview_is_limited_as_any_jpeg_is():
    with pytest.raises(ImageTooLargeError, match=r"a\.nef: 320 × 240"):
        decode_image(CAMERAS["nef"](1), max_pixels=1000, item="a.nef")


def test_a_million_starts_of_jpegs_cost_little():
    data = b"IIU\0\x08\0\0\0" + b"\xff\xd8\xff\xd8" * 250_000
    nested = b"IIU\0\x08\0\0\0" + (b"\xff\xd8\xff\xe0\0\x02" + b"\xff\xe0\0\x02" * 100) * 10_000
    started = time.process_time()
    assert find_preview(data) is None
    assert find_preview(nested) is None
    assert time.process_time() - started < 3


def test_directories_that_name_themselves_end():
    tiff = camera_files.Tiff()
    first = len(tiff.content)
    tiff.directory([(330, 4, [first] * 60)], first)
    assert not is_raw(io.BytesIO(tiff.finish(first)))


def test_a_directory_cut_anywhere_is_harmless():
    data = CAMERAS["dng"](6)
    directory = struct.unpack_from("<I", data, 4)[0]
    for end in range(directory, directory + 100, 3):
        find_preview(data[:end])
        is_raw(io.BytesIO(data[:end]))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 1}])
def test_only_the_preview_is_taken_from_the_file(options):
    buffer = io.BytesIO()
    SCENE.save(buffer, "JPEG", **options)
    assert find_preview(camera_files.arw(SCENE, buffer.getvalue())) == buffer.getvalue()


def test_a_preview_that_is_cut_says_so():
    data = camera_files.raf(SCENE, JPEG)
    cut = data[: data.index(JPEG) + len(JPEG) // 2]
    with pytest.raises(ImageDecodeError, match="the data ends before the image does"):
        decode_image(cut)
