"""One entry for everything: which kinds are taken, how errors name items, threads, PIL images."""

import io
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preprocess.preprocess_images import FORMATS, encode, scene

from perception_encoder.errors import (
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
    ImageValueError,
    PerceptionEncoderError,
)
from perception_encoder.preprocess import decode_image


class FolderEntry:
    """A path by protocol only, like `os.DirEntry`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_a_path_may_be_anything_with_fspath(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(FORMATS["png"])
    assert decode_image(FolderEntry(path)).size == (40, 28)


@pytest.mark.parametrize("thing", [5, 1.5, object(), [scene()], {"a": 1}, np.float32(1)])
def test_other_objects_are_a_type_error_that_lists_the_choices(thing: object):
    with pytest.raises(TypeError, match=r"image 4: expected a path, bytes, a PIL image"):
        decode_image(thing, item="image 4")


def test_none_is_explained_as_an_unreadable_file_of_opencv():
    with pytest.raises(TypeError, match=r"cv2\.imread returns None"):
        decode_image(None)


def test_errors_name_the_place_and_the_path(tmp_path: Path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"no image at all")
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(path, item="image 3 of the batch")
    assert caught.value.item == f"image 3 of the batch ({path})"
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(path)
    assert caught.value.item == str(path)
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(path, item=f"photos.tar/{path}")
    assert caught.value.item == f"photos.tar/{path}"


@pytest.mark.parametrize(
    "kind", [ImageDecodeError, ImageNotFoundError, ImageUnreadableError, ImageValueError]
)
def test_errors_cross_process_borders_with_their_item(kind: type[ImageError]):
    copy = pickle.loads(pickle.dumps(kind("a.jpg: broken", item="a.jpg")))
    assert type(copy) is kind
    assert (str(copy), copy.item) == ("a.jpg: broken", "a.jpg")
    assert isinstance(copy, PerceptionEncoderError)


def test_a_pil_image_is_taken_as_it_is():
    image = scene()
    assert decode_image(image) is image
    assert decode_image(image.convert("CMYK")).mode == "CMYK"


def test_a_pil_image_that_is_still_a_file_is_loaded():
    image = Image.open(io.BytesIO(FORMATS["png"]))
    np.testing.assert_array_equal(np.asarray(decode_image(image)), np.asarray(scene()))


def test_a_pil_image_of_a_cut_file_is_truncated():
    image = Image.open(io.BytesIO(FORMATS["jpeg"][:-200]))
    with pytest.raises(ImageTruncatedError, match="image 2"):
        decode_image(image, item="image 2")


def test_a_closed_pil_image_is_an_image_error(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(FORMATS["png"])
    image = Image.open(path)
    image.close()
    with pytest.raises(ImageDecodeError, match="image 2"):
        decode_image(image, item="image 2")


def test_the_pixel_limit_holds_for_pil_images_before_they_are_loaded():
    image = Image.open(io.BytesIO(FORMATS["png"]))
    with pytest.raises(ImageTooLargeError, match="1120 pixels, the limit is 1000"):
        decode_image(image, max_pixels=1000)
    assert image.tile, "the data must not have been decoded"


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_pil_image_without_pixels_is_refused(size: tuple[int, int]):
    with pytest.raises(ImageValueError, match=r"image 0: .*no pixels"):
        decode_image(Image.new("RGB", size), item="image 0")


def test_many_threads_may_share_one_unloaded_image():
    image = scene(300, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (encode(image, "PNG", exif=exif), encode(image.quantize(64), "PNG")):
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                shared = Image.open(io.BytesIO(data))
                for decoded in pool.map(decode_image, [shared] * 8):
                    np.testing.assert_array_equal(np.asarray(decoded.convert("RGB")), expected)


def test_many_threads_decode_all_formats_as_one_does():
    names = list(FORMATS) * 6
    expected = {name: np.asarray(decode_image(FORMATS[name])) for name in FORMATS}
    with ThreadPoolExecutor(8) as pool:
        decoded = pool.map(decode_image, [FORMATS[name] for name in names])
        for name, image in zip(names, decoded, strict=True):
            np.testing.assert_array_equal(np.asarray(image), expected[name], err_msg=name)


def test_importing_the_package_loads_neither_torch_nor_heif():
    code = (
        "import sys, perception_encoder.preprocess\n"
        "print(sorted({'torch', 'pillow_heif', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr
