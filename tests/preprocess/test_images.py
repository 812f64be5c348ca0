"""The processor as people meet it: every preprocessing, normalization, batches, bad items."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from preprocess.preprocess_images import FORMATS, encode, random_rgb, scene

from perception_encoder.errors import ImageDecodeError, ImageTooLargeError, ImageValueError
from perception_encoder.preprocess import ImageProcessor, split_batch
from perception_encoder.registry import ImageConfig, find

PE = ImageConfig()
CLIP = find("clip/ViT-B-32").config.image
ALL = pytest.mark.parametrize("preprocess", ["standard", "reference", "fast"])
MODELS = pytest.mark.parametrize("config", [PE, CLIP], ids=["pe", "clip"])


def original(image: Image.Image, size: int, config: ImageConfig) -> np.ndarray:
    """Resize in the file's own mode, then RGB: what the original code does to a PIL image."""
    if config.resize == "squash":
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR).convert("RGB"))
    width, height = image.size
    scaled = [
        size if side == min(image.size) else int(size * side / min(image.size))
        for side in (width, height)
    ]
    left, top = (round((side - size) / 2.0) for side in scaled)
    resized = image.resize(tuple(scaled), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)).convert("RGB"))


@ALL
@MODELS
@pytest.mark.parametrize("size", [32, 50])
def test_the_result_is_a_fresh_contiguous_rgb_square(
    preprocess: str, config: ImageConfig, size: int
):
    process = ImageProcessor(config, size, preprocess=preprocess)
    for image in (scene(), scene(9, 70), np.asarray(scene(size, size)), FORMATS["png-palette"]):
        prepared = process(image)
        assert (prepared.shape, prepared.dtype) == ((size, size, 3), np.uint8)
        assert prepared.flags.c_contiguous
        prepared[:] = 0  # writable, and nobody else's
    assert process.name == preprocess


@MODELS
@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(1, 48))
def test_standard_and_reference_agree_exactly_on_rgb(
    config: ImageConfig, width: int, height: int, size: int
):
    image = Image.fromarray(random_rgb(width, height, seed=width))
    expected = original(image, size, config)
    for preprocess in ("standard", "reference"):
        process = ImageProcessor(config, size, preprocess=preprocess)
        np.testing.assert_array_equal(process(image), expected)
        np.testing.assert_array_equal(process(encode(image, "PNG")), expected)
        np.testing.assert_array_equal(process(np.asarray(image)[..., ::-1]), expected)


@MODELS
@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"heic"}))  # the original opens no HEIC
def test_reference_is_the_original_on_every_format(name: str, config: ImageConfig, tmp_path: Path):
    path = tmp_path / "image"
    path.write_bytes(FORMATS[name])
    with Image.open(path) as image:
        expected = original(image, 24, config)
    process = ImageProcessor(config, 24, preprocess="reference")
    np.testing.assert_array_equal(process(path), expected)


@MODELS
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I", "F", "I;16", "HSV"]
)
def test_reference_is_the_original_on_every_mode(mode: str, config: ImageConfig):
    image = Image.new(mode, (40, 28)) if mode in ("I;16", "HSV") else scene().convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(scene().getchannel("R"))
    process = ImageProcessor(config, 24, preprocess="reference")
    np.testing.assert_array_equal(process(image), original(image, 24, config))


def test_reference_ignores_exif_and_transparency_without_a_warning():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(scene(), "PNG", exif=exif)
    palette = scene().quantize(8)
    keyed = encode(palette, "PNG", transparency=bytes(8))
    process = ImageProcessor(PE, 24, preprocess="reference")
    np.testing.assert_array_equal(process(turned), original(scene(), 24, PE))
    np.testing.assert_array_equal(process(keyed), original(palette, 24, PE))
    standard = ImageProcessor(PE, 24)
    assert (standard(turned) != process(turned)).any()
    np.testing.assert_array_equal(standard(keyed), 255)


def test_standard_smooths_palettes_and_bits_where_reference_picks_pixels():
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * 255
    bits = Image.fromarray(checkers.astype(np.uint8)).convert("1")
    standard = ImageProcessor(PE, 8)(bits)
    reference = ImageProcessor(PE, 8, preprocess="reference")(bits)
    assert np.abs(standard.astype(int) - 127).max() <= 2
    assert set(np.unique(reference)) <= {0, 255}


@MODELS
def test_all_photos_agree_with_the_original(photos: list[Path], config: ImageConfig):
    reference = ImageProcessor(config, 224, preprocess="reference")
    standard = ImageProcessor(config, 224)
    num_ordinary = 0
    for path in photos:
        with Image.open(path) as image:
            expected = original(image, 224, config)
            is_ordinary = image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(reference(path), expected, err_msg=str(path))
        prepared = standard(path.read_bytes())
        assert prepared.shape == (224, 224, 3)
        if is_ordinary:
            num_ordinary += 1
            np.testing.assert_array_equal(prepared, expected, err_msg=str(path))
    assert num_ordinary > 0


def test_all_photos_on_many_threads_equal_the_serial_ones(photos: list[Path]):
    process = ImageProcessor(PE, 64)
    with ThreadPoolExecutor(4) as pool:
        for path, prepared in zip(photos, pool.map(process, photos), strict=True):
            np.testing.assert_array_equal(prepared, process(path))


def test_settings_are_checked_when_the_processor_is_made():
    with pytest.raises(
        ValueError, match="unknown preprocessing 'fancy'; one of: standard, reference, fast"
    ):
        ImageProcessor(PE, 224, preprocess="fancy")
    with pytest.raises(ValueError, match="must be positive"):
        ImageProcessor(PE, 0)
    with pytest.raises(ValueError, match="must be positive"):
        ImageProcessor(PE, 8, max_pixels=0)


def test_the_processors_limit_reaches_the_decoder():
    process = ImageProcessor(PE, 8, max_pixels=1000)
    with pytest.raises(ImageTooLargeError, match=r"huge\.png.*1120 pixels, the limit is 1000"):
        process(FORMATS["png"], item="huge.png")
    assert process(np.zeros((40, 40), np.uint8)).shape == (8, 8, 3)


@ALL
def test_a_bad_item_names_itself_and_spoils_nothing(preprocess: str):
    process = ImageProcessor(PE, 16, preprocess=preprocess)
    good = random_rgb(20, 20)
    floats = good.astype(np.float32)  # 0..255: outside the range
    batch = [good, FORMATS["png"], floats, FORMATS["jpeg"][:-300], scene()]
    copies = [good.copy(), floats.copy()]
    prepared, failed = {}, {}
    for place, image in enumerate(split_batch(batch)):
        try:
            prepared[place] = process(image, item=f"image {place} of the batch")
        except (ImageValueError, ImageDecodeError) as err:
            failed[place] = err.item
    assert failed == {2: "image 2 of the batch", 3: "image 3 of the batch"}
    for place in (0, 1, 4):
        np.testing.assert_array_equal(prepared[place], process(batch[place]))
    np.testing.assert_array_equal(good, copies[0])
    np.testing.assert_array_equal(floats, copies[1])


@ALL
def test_the_callers_array_is_never_changed_nor_shared(preprocess: str):
    process = ImageProcessor(PE, 16, preprocess=preprocess)
    for array in (
        random_rgb(16, 16),
        random_rgb(16, 16)[..., 0],
        np.dstack([random_rgb(16, 16), random_rgb(16, 16)[..., :1]]),
        random_rgb(16, 16).astype(np.float32) / 255,
    ):
        before = array.copy()
        array.flags.writeable = False
        prepared = process(array, input_color_format="rgb")
        assert not np.shares_memory(prepared, array)
        np.testing.assert_array_equal(array, before)


def test_a_batch_may_be_a_list_of_anything_in_any_iterable(tmp_path: Path):
    items = [scene(), b"bytes", "path.jpg", tmp_path, random_rgb(3, 4), torch.zeros(3, 4, 5)]
    assert split_batch(items) == items
    for iterable in (tuple(items), iter(items), (item for item in items)):
        assert [id(item) for item in split_batch(iterable)] == [id(item) for item in items]
    assert split_batch([]) == []
    assert split_batch(np.array(["a.jpg", "b.jpg"])) == ["a.jpg", "b.jpg"]
    assert split_batch(np.array([Path("a.jpg"), None], object)) == [Path("a.jpg"), None]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_array_or_tensor_is_a_batch_along_its_first_axis(channels: int):
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 7, channels), dtype=np.uint8)
    images = split_batch(array)
    assert len(images) == 5
    assert all(np.shares_memory(image, array) for image in images)
    tensors = split_batch(torch.from_numpy(array).permute(0, 3, 1, 2))
    process = ImageProcessor(PE, 8)
    for image, tensor in zip(images, tensors, strict=True):
        np.testing.assert_array_equal(process(tensor), process(image, input_color_format="rgb"))
    assert split_batch(array[:0]) == []


@pytest.mark.parametrize(
    "single", ["a.jpg", Path("a.jpg"), b"bytes", bytearray(b"x"), memoryview(b"x"), scene()]
)
def test_a_single_image_is_no_batch(single: object):
    with pytest.raises(TypeError, match="wrap it in a list, or use embed_image"):
        split_batch(single)


@pytest.mark.parametrize("thing", [None, 5, {"a": "b.jpg"}, {"a.jpg", "b.jpg"}])
def test_things_without_an_order_are_no_batch(thing: object):
    with pytest.raises(TypeError, match="expected a list of images"):
        split_batch(thing)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (np.zeros((6, 7, 3), np.uint8), "use embed_image"),
        (np.zeros((6, 7), np.uint8), "use embed_image"),
        (np.zeros((2, 3, 6, 7), np.uint8), r"look like \(N, C, H, W\)"),
        (np.zeros((2, 2, 6, 7, 3), np.uint8), r"a batch is \(N, H, W, C\)"),
        (torch.zeros(3, 6, 7), "use embed_image"),
        (torch.zeros(2, 6, 7, 3), r"look like \(N, H, W, C\)"),
    ],
    ids=str,
)
def test_arrays_of_another_rank_or_layout_say_so(batch: object, why: str):
    with pytest.raises(ImageValueError, match=why):
        split_batch(batch)
