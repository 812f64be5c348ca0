import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from perception_encoder.analysis.contact_sheet import (
    Box,
    SheetHit,
    SheetLayout,
    SheetPage,
    SheetRow,
    draw_pages,
    save_contact_sheet,
)
from perception_encoder.errors import ImageNotFoundError, ImageWriteError

RED, GREEN, BLUE, WHITE = (220, 20, 30), (20, 200, 40), (30, 60, 230), (255, 255, 255)


def plain(color: tuple[int, int, int], size: tuple[int, int] = (60, 60)) -> Image.Image:
    return Image.new("RGB", size, color)


def draw(rows: list[SheetRow], tile: int = 224) -> tuple[Image.Image, SheetPage]:
    """Draw a sheet of one page; return where things are on it, too."""
    (page,) = SheetLayout(tile).place(rows)
    (sheet,) = draw_pages(rows, tile=tile)
    return sheet, page


def middle(sheet: Image.Image, box: Box) -> tuple[int, ...]:
    color = sheet.getpixel(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2))
    assert isinstance(color, tuple)
    return color


def ink(sheet: Image.Image, box: Box) -> int:
    """The number of dark pixels in a box."""
    return int((np.asarray(sheet.crop(box).convert("L")) < 128).sum())


@pytest.mark.parametrize("tile", [64, 224])
def test_hits_are_drawn_in_their_order_beside_their_query(tile: int) -> None:
    rows = [
        SheetRow([SheetHit(plain(RED), 0.9), SheetHit(plain(GREEN), 0.8)], text="a query"),
        SheetRow([SheetHit(plain(BLUE), 0.7)], image=plain(GREEN), text="like this"),
    ]
    sheet, page = draw(rows, tile)
    first, second = page.blocks
    assert sheet.mode == "RGB"
    assert sheet.size == page.size
    assert [middle(sheet, box) for box in first.hits] == [RED, GREEN]
    assert [middle(sheet, box) for box in second.hits] == [BLUE]
    assert middle(sheet, second.query) == GREEN
    assert ink(sheet, first.query) > 20


@pytest.mark.parametrize("counts", [[20], [1] * 10, [5] * 5, [6, 0, 13, 1, 1, 2], [200], [1] * 100])
def test_boxes_keep_apart_and_inside_pages_of_limited_size(counts: list[int]) -> None:
    rows = [SheetRow([SheetHit(plain(RED), 0.5)] * count, text="query") for count in counts]
    pages = SheetLayout(224).place(rows)
    for page in pages:
        width, height = page.size
        assert width <= 1640
        assert height <= 4000
        covered = np.zeros((height, width), int)
        for block in page.blocks:
            for left, top, right, bottom in (block.query, *block.hits):
                assert 0 < left < right < width
                assert 0 < top < bottom < height
                covered[top:bottom, left:right] += 1
        assert covered.max() == 1
    placed = [block for page in pages for block in page.blocks]
    assert sum(len(block.row.hits) for block in placed) == sum(counts)


def test_hits_wrap_into_lines_and_short_rows_share_one() -> None:
    hit = SheetHit(plain(RED), 0.5)
    (page,) = SheetLayout(224).place([SheetRow([hit] * 20)])
    assert len({top for _, top, _, _ in page.blocks[0].hits}) == 4
    (page,) = SheetLayout(224).place([SheetRow([hit])] * 6)
    assert len({block.query[1] for block in page.blocks}) == 2


def test_scores_and_labels_stand_under_their_image() -> None:
    layout = SheetLayout(224)
    with_words, page = draw([SheetRow([SheetHit(plain(RED), 0.25, "cat.jpg")])])
    left, _, right, bottom = page.blocks[0].hits[0]
    below = bottom + layout.gap // 2
    line = round(layout.font_size * 1.4)
    assert ink(with_words, (left, below, right, below + line)) > 20
    assert ink(with_words, (left, below + line, right, below + 2 * line)) > 20
    without, _ = draw([SheetRow([SheetHit(plain(RED), 0.25)])])
    assert ink(without, (left, below + line, right, below + 2 * line)) == 0


def test_proportions_are_kept_on_a_neutral_tile() -> None:
    sheet, page = draw([SheetRow([SheetHit(plain(RED, (200, 100)), 1.0)])], 96)
    tile = np.asarray(sheet.crop(page.blocks[0].hits[0]))
    is_red = (tile == RED).all(axis=2)
    rows, columns = np.flatnonzero(is_red.any(axis=1)), np.flatnonzero(is_red.any(axis=0))
    assert (len(columns), len(rows)) == (96, 48)
    assert rows[0] == 24
    assert len(np.unique(tile[2, 10:-10], axis=0)) == 1  # one gray above
    assert np.ptp(tile[2, 48]) < 10


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    image = plain(RED, (80, 40))
    image.paste(BLUE, (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown with the left side on top
    image.save(tmp_path / "turned.png", exif=exif)
    sheet, page = draw([SheetRow([SheetHit(tmp_path / "turned.png", 1.0)])], 96)
    left, top, right, bottom = page.blocks[0].hits[0]
    assert sheet.getpixel(((left + right) // 2, top + 10)) == BLUE
    assert sheet.getpixel(((left + right) // 2, bottom - 10)) == RED


def test_small_drawings_are_enlarged_but_not_without_end() -> None:
    sheet, page = draw([SheetRow([SheetHit(plain(RED, (20, 20)), 1.0)])])
    tile = np.asarray(sheet.crop(page.blocks[0].hits[0]))
    assert (tile == RED).all(axis=2).sum() == 80 * 80


def test_what_cannot_be_opened_becomes_a_labeled_tile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    rows = [
        SheetRow(
            [SheetHit(tmp_path / "broken.jpg", 0.5), SheetHit(tmp_path / "gone.jpg", 0.4)],
            image=tmp_path / "gone too.jpg",
        )
    ]
    with caplog.at_level(logging.WARNING):
        sheet, page = draw(rows)
    for box in (page.blocks[0].query, *page.blocks[0].hits):
        left, top, right, _ = box
        assert sheet.getpixel(((left + right) // 2, top + 20)) == (0xDF, 0xE3, 0xE8)
        assert (np.asarray(sheet.crop(box).convert("L")) < 160).sum() > 50
    assert [name in caplog.text for name in ("broken.jpg", "gone.jpg", "gone too.jpg")] == [
        True
    ] * 3


def test_rows_without_hits_say_so() -> None:
    sheet, page = draw([SheetRow([], text="a unicorn")])
    assert (np.asarray(sheet.crop(page.blocks[0].hits[0]).convert("L")) < 160).sum() > 50


@pytest.mark.parametrize(
    "text", ["x" * 5000, "word " * 3000, "日本の寺 😀 кот", "a\0\ud800\n\u202e"]
)
def test_any_words_stay_inside_their_tile(text: str) -> None:
    sheet, page = draw([SheetRow([SheetHit(plain(RED), 0.5, text)], text=text)], 100)
    left, top, right, bottom = page.blocks[0].query
    outside = ImageOps.invert(sheet.convert("L"))
    outside.paste(0, (left, top - 2, right + 2, bottom + 2))
    hit_left, hit_top, hit_right, _ = page.blocks[0].hits[0]
    outside.paste(0, (hit_left, hit_top, hit_right + 2, page.size[1] - SheetLayout(100).gap))
    assert outside.getbbox() is None


@pytest.mark.parametrize("name", ["sheet.png", "sheet.JPG", "sheet.webp"])
def test_the_ending_decides_the_format(tmp_path: Path, name: str) -> None:
    rows = [SheetRow([SheetHit(plain(RED), 0.5)], text="red")]
    assert save_contact_sheet(rows, tmp_path / name, tile=64) == [tmp_path / name]
    with Image.open(tmp_path / name) as saved:
        assert saved.size == SheetLayout(64).place(rows)[0].size
        assert len(saved.convert("RGB").getcolors(1 << 20) or []) > 3


def test_a_long_sheet_is_saved_as_pages(tmp_path: Path) -> None:
    rows = [SheetRow([SheetHit(plain(RED), 0.5)] * 5, text="red")] * 15
    drawn = []
    names = save_contact_sheet(rows, tmp_path / "sheet.png", progress=lambda: drawn.append(1))
    assert [name.name for name in names] == ["sheet.png", "sheet-2.png"]
    assert all(name.exists() for name in names)
    assert len(drawn) == 75


def test_a_sheet_may_be_an_html_page(tmp_path: Path) -> None:
    rows = [
        SheetRow([SheetHit(plain(RED), 0.5, "<b>.png")], text="red & blue", image=plain(BLUE)),
        SheetRow([SheetHit(tmp_path / "gone.png", None)]),
        SheetRow([], text="nothing"),
    ]
    (name,) = save_contact_sheet(rows, tmp_path / "sheet.html", tile=64)
    page = name.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2
    assert "&lt;b&gt;.png" in page
    assert "red &amp; blue" in page
    assert "file not found" in page
    assert "nothing found" in page


@pytest.mark.parametrize("name", ["sheet.xyz", "sheet", "no folder/sheet.png"])
def test_what_cannot_be_saved_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageWriteError, match=name):
        save_contact_sheet([SheetRow([], text="red")], tmp_path / name)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        next(draw_pages([]))
    with pytest.raises(ValueError, match="at least 32 pixels, got 5"):
        next(draw_pages([SheetRow([])], tile=5))


def test_real_photos_are_drawn(photos: list[Path]) -> None:
    hits = [SheetHit(path, 0.3, path.name) for path in photos[:3]]
    sheet, page = draw([SheetRow(hits, text="photos")], 96)
    for box in page.blocks[0].hits:
        tile = np.asarray(sheet.crop(box))
        assert len(np.unique(tile.reshape(-1, 3), axis=0)) >= 2


def test_an_image_may_be_read_when_it_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    stream = io.BytesIO()
    plain(GREEN).save(stream, "PNG")

    def gone() -> bytes:
        raise ImageNotFoundError("shard.tar: no such archive")

    def broken() -> bytes:
        raise OSError("the connection was lost")

    hits = [SheetHit(stream.getvalue, 0.9), SheetHit(gone, 0.8), SheetHit(broken, 0.7)]
    sheet, page = draw([SheetRow(hits, image=stream.getvalue)], 96)
    assert middle(sheet, page.blocks[0].query) == GREEN
    assert middle(sheet, page.blocks[0].hits[0]) == GREEN
    assert "no such archive" in caplog.text
    assert "the connection was lost" in caplog.text
