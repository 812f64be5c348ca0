"""Blurry, dark, bright, blank and plain images: by their pixels, read once."""

import html
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from analysis.duplicate_samples import index_of, read, row_of, unit
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from perception_encoder.analysis.cleaning import CleaningOptions, clean_index
from perception_encoder.analysis.cleaning.clean import BLURRY, BRIGHT, DARK, LOW_INFORMATION
from perception_encoder.analysis.cleaning.measured import NAME
from perception_encoder.analysis.cleaning.pixels import measure_image
from perception_encoder.errors import OutputError
from perception_encoder.index.storage import sidecar_path

GALLERY = Path(str(files("perception_encoder").joinpath("data/gallery")))
KINDS = ("blurry", "dark", "bright", "blank", "low information")


def drawing(name="cat"):
    return Image.open(GALLERY / f"{name}.webp").convert("RGB")


def faulty():
    """One image of each kind, and a good one."""
    cat = drawing()
    dot = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(dot).ellipse((40, 40, 60, 60), fill="black")
    return {
        "good": cat,
        "blurry": cat.filter(ImageFilter.GaussianBlur(4)),
        "dark": ImageEnhance.Brightness(cat).enhance(0.15),
        "bright": cat.point(lambda level: 235 + level // 13),
        "blank": Image.new("RGB", (90, 70), "teal"),
        "low information": dot,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The faulty images as files, and a broken one."""
    folder = tmp_path_factory.mktemp("faulty")
    for name, image in faulty().items():
        image.save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def indexed(tmp_path, folder):
    rows = [row_of(path) for path in sorted(folder.iterdir()) if path.stem != "broken"]
    rows.append(rows[0].__class__(uri=str(folder / "broken.png"), sha256="0" * 64))
    return index_of(tmp_path, rows, unit(np.eye(len(rows), 16)))


def test_each_fault_is_found_where_it_is(tmp_path, folder):
    report = clean_index(indexed(tmp_path, folder), read, CleaningOptions(kinds=KINDS))
    found = {
        kind: [Path(one.row.uri).stem for one in each] for kind, each in report.findings.items()
    }
    assert found == {kind: [kind] for kind in KINDS}
    assert report.num_unreadable == 1
    ((row, why),) = report.unreadable
    assert row.uri.endswith("broken.png")
    assert "broken.png" in why


def test_a_second_run_reads_nothing_but_what_failed_or_is_new(tmp_path, folder):
    index = indexed(tmp_path, folder)
    read_names = []

    def reading(row):
        read_names.append(Path(row.uri).stem)
        return read(row)

    options = CleaningOptions(kinds=KINDS)
    first = clean_index(index, reading, options, where="uri NOT LIKE '%dark%'")
    assert len(read_names) == 6
    read_names.clear()
    second = clean_index(index, reading, options)
    assert sorted(read_names) == ["broken", "dark"]
    assert len(second) == len(first) + 1
    read_names.clear()
    assert list(clean_index(index, reading, options)) == list(second)
    assert read_names == ["broken"]


@pytest.mark.parametrize("damage", [b"", b"no parquet", None])
def test_damaged_memory_is_measured_again(tmp_path, folder, damage):
    index = indexed(tmp_path, folder)
    options = CleaningOptions(kinds=KINDS)
    before = list(clean_index(index, read, options))
    path = Path(sidecar_path(index.path, NAME))
    if damage is None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"sha256": ["x"], "blur": [1.0]}), path)
    else:
        path.write_bytes(damage)
    assert list(clean_index(index, read, options)) == before


def test_other_kinds_read_no_image(tmp_path, folder):
    def refuse(row):
        raise AssertionError(row)

    clean_index(indexed(tmp_path, folder), refuse, CleaningOptions(kinds=("odd aspect ratio",)))


def test_drawings_are_neither_blurry_nor_dark():
    for path in sorted(GALLERY.glob("*.webp"))[::6]:
        found = measure_image(Image.open(path))
        assert found.blur < BLURRY - 0.05, path.name
        assert found.brightest > 2 * DARK, path.name
        assert found.darkest < BRIGHT, path.name
        assert found.information > LOW_INFORMATION, path.name


def test_photos_have_no_faults_until_they_are_spoilt(photos):
    for path in photos:
        image = Image.open(path).convert("RGB")
        if path.stem == "red_image":
            continue
        found = measure_image(image)
        assert found.blur < BLURRY, path.name
        assert found.brightest > DARK, path.name
        assert found.darkest < BRIGHT, path.name
        assert found.information > 10 * LOW_INFORMATION, path.name
        blurred = image.filter(ImageFilter.GaussianBlur(max(image.size) / 100))
        assert measure_image(blurred).blur > BLURRY, path.name
        assert measure_image(ImageEnhance.Brightness(image).enhance(0.2)).brightest <= DARK


def test_blur_is_of_what_is_seen_not_of_the_number_of_pixels():
    small = drawing("castle").resize((512, 512), Image.Resampling.LANCZOS)
    large = small.resize((2048, 2048), Image.Resampling.LANCZOS)
    assert measure_image(large).blur == pytest.approx(measure_image(small).blur, abs=0.05)


def test_a_blurred_background_is_no_blurry_image():
    sharp = drawing("camera").resize((320, 320), Image.Resampling.NEAREST)
    whole = sharp.resize((640, 640)).filter(ImageFilter.GaussianBlur(12))
    assert measure_image(whole).blur > BLURRY
    whole.paste(sharp, (160, 160))
    assert measure_image(whole).blur < BLURRY


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (31, 31), (33, 2), (600, 40)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "I;16", "CMYK"])
def test_any_size_and_mode_is_measured(size, mode):
    found = measure_image(Image.new(mode, size))
    assert np.isfinite(found[1:]).all()
    assert found.spread == 0
    assert found.information == 0


def test_colors_of_equal_brightness_are_not_blank():
    image = Image.new("RGB", (100, 100), (255, 0, 0))
    image.paste((0, 130, 0), (0, 0, 50, 100))
    assert measure_image(image).spread > 0.4


def test_the_page_shows_each_image_and_escapes_names(tmp_path, folder):
    name = "<img src=x onerror=alert(1)>&\"'\u202egpj.png"
    hostile = tmp_path / "images"
    hostile.mkdir()
    (hostile / name).write_bytes((folder / "dark.png").read_bytes())
    index = index_of(tmp_path, [row_of(hostile / name)], unit(np.ones((1, 8))))
    report = clean_index(index, read, CleaningOptions(kinds=KINDS))
    page = tmp_path / "report.html"
    report.save(page, title="<script>")
    text = page.read_text(encoding="utf-8")
    assert "onerror=alert(1)&gt;" in text
    assert "<img src=x" not in text
    assert "<script" not in text
    assert "\u202e" not in text
    assert text.count('src="data:image/webp;base64,') == 1
    assert re.search(r'href="file:///[^"<>\']*onerror%3Dalert', text)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(one.startswith(("data:", "file:", "#")) for one in sources)
    assert html.escape("default-src 'none'", quote=False) in text


def test_the_page_is_bounded(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number}.png")
    rows = [row_of(path) for path in sorted(folder.iterdir())]
    index = index_of(tmp_path, rows, unit(np.random.default_rng(0).normal(size=(40, 8))))
    report = clean_index(index, read, CleaningOptions(kinds=("blank",)))
    assert len(report) == 40
    page = tmp_path / "report.html"
    report.save(page, limit=30)
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == 30
    assert "6 more" in text  # folded away
    assert "10 further images" in text
    with pytest.raises(ValueError, match="at least 1"):
        report.save(page, limit=0)
    with pytest.raises(OutputError, match="nowhere"):
        report.save(tmp_path / "nowhere" / "report.html")


def test_an_image_that_vanished_is_shown_as_such(tmp_path, folder):
    index = indexed(tmp_path, folder)
    report = clean_index(index, read, CleaningOptions(kinds=("blank",)))
    (finding,) = report
    moved = Path(finding.row.uri).rename(tmp_path / "away.png")
    try:
        report.save(tmp_path / "report.html")
        assert "cannot be read" in (tmp_path / "report.html").read_text(encoding="utf-8")
    finally:
        moved.rename(finding.row.uri)
