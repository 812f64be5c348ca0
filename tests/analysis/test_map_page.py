"""The page of a map in a real browser, opened from disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from server.conftest import browser, open_page  # noqa: F401  fixtures

from perception_encoder.analysis.map_files import MapGroup, MapPage, write_page
from perception_encoder.index import Row

NAMES = ["red one.png", "green </script>.png", "blue ä.png", "gone.png", "inside.png", "last.png"]
PLACES = [[-0.9, 0.9], [0.9, 0.9], [-0.9, -0.9], [0.9, -0.9], [0, 0], [0.02, 0]]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """Six images: four in the corners, one of which has gone, and two close to each other."""
    folder = tmp_path_factory.mktemp("map")
    colors = ["#ff0000", "#00ff00", "#0000ff", "#000000", "#ff00ff", "#00ffff"]
    rows = [Row(uri=str(folder / name.replace("/", "-"))) for name in NAMES]
    rows[4] = Row(uri=str(folder / "all.tar"), member="inside.png")
    for row, color in zip(rows, colors, strict=True):
        if row.name and "gone" not in row.uri:
            Image.new("RGB", (60, 60), color).save(Path(row.uri).with_suffix(".png"))
    images = [str(Path(row.uri).with_suffix(".png")) for row in rows]
    page = MapPage(
        title="holiday.lance",
        rows=rows,
        places=np.array(PLACES, np.float32),
        labels=np.array([0, 0, 0, 1, 1, 1]),
        scores=np.linspace(1, 0.5, 6, dtype=np.float32),
        groups=[MapGroup("sea & sand", 3), MapGroup("<b>", 3)],
        is_named=True,
    )
    assert write_page(page, images, folder / "map.html") == 1
    return folder / "map.html"


def at(page, number: int) -> tuple[float, float]:
    """Where an image is in the window when all of the map is shown."""
    box = page.locator("#map").bounding_box()
    room = 0.92 * min(box["width"], box["height"]) / 2
    x, y = PLACES[number]
    return box["x"] + box["width"] / 2 + x * room, box["y"] + box["height"] / 2 - y * room  # type: ignore[has-type]


def color(page, number: int) -> list[int]:
    x, y = at(page, number)
    box = page.locator("#map").bounding_box()
    script = "([x, y]) => [...pen.getImageData(x, y, 1, 1).data]"
    above_names = 15
    return page.evaluate(script, [round(x - box["x"]), round(y - box["y"]) - above_names])


def is_near(seen: list[int], wanted: tuple[int, int, int]) -> bool:
    return all(abs(one - other) < 24 for one, other in zip(seen, wanted, strict=False))


def test_images_are_where_they_belong_and_open_when_clicked(page_file, open_page):  # noqa: F811
    page = open_page(page_file.as_uri(), expected=("ERR_FILE_NOT_FOUND",))
    expect(page.locator("#count")).to_have_text("6 images")
    page.wait_for_function("sheets.every((sheet) => sheet.complete) && !waiting")
    for number, wanted in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        assert is_near(color(page, number), wanted), number
    page.mouse.move(*at(page, 1))
    expect(page.locator("#card")).to_be_visible()
    expect(page.locator("#name")).to_have_text("green <-script>.png")
    expect(page.locator("#group")).to_have_text("sea & sand")
    page.mouse.move(*at(page, 0))
    expect(page.locator("#large")).to_be_visible()  # the file itself
    with page.context.expect_page() as opened:
        page.mouse.click(*at(page, 0))
    assert opened.value.url == (page_file.parent / "red one.png").as_uri()
    page.mouse.move(*at(page, 3))
    expect(page.locator("#name")).to_have_text("gone.png")
    expect(page.locator("#large")).to_be_hidden()


def test_it_is_usable_by_keyboard_search_and_screen_reader(page_file, open_page):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(page_file.as_uri(), color_scheme="dark")
    assert Axe().run(page).response["violations"] == []
    shown = "() => { draw(); return shown.list.map((i) => data.names[i]); }"
    assert "last.png" not in page.evaluate(shown)  # there is no room beside the other
    page.locator("#map").focus()
    for _ in range(14):
        page.keyboard.press("+")
    expect(page.locator("#said")).to_have_text("inside.png, <b>")
    assert "last.png" in page.evaluate(shown)
    page.keyboard.press("0")
    page.get_by_placeholder("Find in names").fill("BLUE")
    expect(page.locator("#count")).to_have_text("1 of 6 images")
    assert page.evaluate(shown) == ["blue ä.png"]
    page.get_by_placeholder("Find in names").fill("")
    page.get_by_role("button", name="sea & sand 3").click()
    before = page.evaluate("view.scale")
    page.get_by_role("button", name="Zoom in").click()
    assert page.evaluate("view.scale") > before
    page.mouse.move(*at(page, 4))
    page.mouse.down()
    left = page.evaluate("view.left")
    page.mouse.move(at(page, 4)[0] - 90, at(page, 4)[1], steps=3)
    page.mouse.up()
    assert page.evaluate("view.left") == pytest.approx(left + 90)


def test_what_the_page_shows_is_all_inside_it(page_file):
    text = page_file.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("</script>") == 2
