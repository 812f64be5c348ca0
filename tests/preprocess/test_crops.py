"""Parts of images: what a box means, where it is refused, and what the model sees of it."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from preprocess.preprocess_images import encode, random_rgb, scene

from perception_encoder.errors import ImageValueError
from perception_encoder.preprocess import CropBox, ImageProcessor, crop_image, decode_image
from perception_encoder.preprocess.crops import split_crop, split_crop_of_path, with_crop
from perception_encoder.registry import ImageConfig

SIZE = 24
WHOLE = scene(60, 40)


def pixels(image: object, preprocess: str = "standard") -> np.ndarray:
    return ImageProcessor(ImageConfig(), SIZE, preprocess=preprocess)(image)


@pytest.mark.parametrize("preprocess", ["standard", "reference", "fast"])
@pytest.mark.parametrize("box", ["10,5,20,30", (10, 5, 20, 30), CropBox(10, 5, 20, 30)])
def test_a_part_is_what_an_editor_would_have_cut_out(preprocess: str, box: object) -> None:
    cut = WHOLE.crop((10, 5, 30, 35))
    assert (pixels(crop_image(WHOLE, box), preprocess) == pixels(cut, preprocess)).all()


def test_percent_is_of_width_and_height() -> None:
    part = crop_image(WHOLE, "percent:50,25,25,50")
    assert (pixels(part) == pixels(WHOLE.crop((30, 10, 45, 30)))).all()


def test_what_is_outside_is_left_out() -> None:
    part = crop_image(WHOLE, "50,30,500,500")
    assert (pixels(part) == pixels(WHOLE.crop((50, 30, 60, 40)))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_counts_on_the_image_as_a_viewer_shows_it(orientation: int) -> None:
    shown = scene(60, 40)
    back = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = shown if back is None else shown.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(stored, "PNG", exif=exif)
    expected = pixels(shown.crop((10, 5, 30, 35)))
    for preprocess in ("standard", "reference"):
        assert (pixels(crop_image(file, "10,5,20,30"), preprocess) == expected).all()


def test_colors_of_a_part_are_those_of_the_whole() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))  # not RGB: is ignored
    gray = Image.fromarray(random_rgb(30, 20)[..., 0])
    palette = WHOLE.convert("P", palette=Image.Palette.ADAPTIVE)
    clear = WHOLE.convert("RGBA")
    clear.putalpha(128)
    for image in (gray, palette, clear):
        file = encode(image, "PNG", icc_profile=profile.tobytes())
        part = decode_image(crop_image(file, "0,0,20,20"))
        whole = decode_image(crop_image(file, "percent:0,0,100,100"))
        assert (np.asarray(part) == np.asarray(whole)[:20, :20]).all()
    assert decode_image(crop_image(encode(clear, "PNG"), "0,0,4,4")).mode == "RGB"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("1,2,3", "not a box"), ("1,2,3,4,5", "not a box"), ("a,b,c,d", "not a box"),
        ("", "not a box"), ("cm:1,2,3,4", "not a box"), ("1,2,3," + "4" * 300, "not a box"),
        ("1,2,0,4", "width and height must be above 0"), ("1,2,3,0", "above 0"),
        ("-1,2,3,4", "not be negative"), ("1,2,-3,4", "not be negative"),
        ("nan,2,3,4", "finite"), ("1,2,inf,4", "finite"), ("1,2,1e400,4", "finite"),
        ("1,2,3,1e12", "at most 1,000,000"), ("percent:0,0,101,5", "at most 100"),
    ],
)  # fmt: skip
def test_what_is_no_box_is_refused_with_the_reason(written: str, reason: str) -> None:
    with pytest.raises(ImageValueError, match=re.escape(reason)):
        CropBox.parse(written)
    with pytest.raises(ImageValueError, match=re.escape(reason)):
        split_crop(f"dog.jpg#xywh={written}")


@pytest.mark.parametrize("box", [(1, 2, 3), 7, {"x": 1}])
def test_a_box_of_another_type_is_refused(box: object) -> None:
    with pytest.raises(TypeError, match=r"\(x, y, width, height\)"):
        crop_image(WHOLE, box)


@pytest.mark.parametrize("box", ["60,0,5,5", "0,40,5,5", "percent:100,0,5,5"])
def test_a_box_beside_the_image_is_an_error_that_names_both(box: str, tmp_path: Path) -> None:
    path = tmp_path / "dog.png"
    WHOLE.save(path)
    with pytest.raises(ImageValueError, match=rf"dog\.png.*{box}.*60 × 40 pixels"):
        pixels(crop_image(path, box))


@given(
    numbers=st.tuples(*[st.floats(0, 100)] * 2, *[st.floats(0.001, 100)] * 2),
    unit=st.sampled_from(["pixel", "percent"]),
)
def test_every_box_that_touches_the_image_has_a_pixel_in_it(
    numbers: tuple[float, ...], unit: str
) -> None:
    box = CropBox(*numbers, unit=unit)
    try:
        left, top, right, lower = box.place((60, 40), item="it")
    except ImageValueError:
        limits = (100, 100) if unit == "percent" else (60, 40)
        assert box.x >= limits[0] or box.y >= limits[1]
    else:
        assert 0 <= left < right <= 60
        assert 0 <= top < lower <= 40


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dog.jpg#xywh=1,2,3,4", ("dog.jpg", "1,2,3,4")),
        ("dog.jpg#xywh=pixel:1,2,3,4", ("dog.jpg", "1,2,3,4")),
        ("dog.jpg#xywh=percent%3A1,2,3,4.5", ("dog.jpg", "percent:1,2,3,4.5")),
        ("film.mp4#t=4&xywh=1,2,3,4", ("film.mp4#t=4", "1,2,3,4")),
        ("film.mp4#xywh=1,2,3,4&t=4", ("film.mp4#t=4", "1,2,3,4")),
        ("a#b.jpg#xywh=1,2,3,4", ("a#b.jpg", "1,2,3,4")),
        ("https://x.org/a.jpg?b=1#xywh=1,2,3,4", ("https://x.org/a.jpg?b=1", "1,2,3,4")),
        ("film.mp4#t=4", ("film.mp4#t=4", None)),
        ("what is xywh=1,2,3,4", ("what is xywh=1,2,3,4", None)),
        ("#xywh=1,2,3,4", ("#xywh=1,2,3,4", None)),
    ],
)
def test_fragments_are_those_of_the_recommendation(
    name: str, expected: tuple[str, str | None]
) -> None:
    base, box = split_crop(name)
    assert (base, None if box is None else str(box)) == expected
    if box is not None:
        assert split_crop(with_crop(base, box)) == (base, box)


def test_a_file_that_has_the_whole_name_wins(tmp_path: Path) -> None:
    odd = tmp_path / "dog.jpg#xywh=1,2,3,4"
    assert split_crop_of_path(str(odd)) == (str(tmp_path / "dog.jpg"), CropBox(1, 2, 3, 4))
    odd.write_bytes(b"")
    assert split_crop_of_path(str(odd)) == (str(odd), None)
