"""Searching by a part of an image on the page: with mouse, finger and keys."""

import base64
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from server.pages import expect_search, names, overflows, search, until, wait_for_results
from server.serving import running

from perception_encoder import AutoModel, ImageIndex
from perception_encoder.server import ServerSettings

FRAME = ".part-box"


@pytest.fixture
def page(open_page, drawings_server):
    page = open_page(drawings_server.url)
    wait_for_results(page)
    return page


def open_first(page, words="a cat"):
    """Open the first hit of a query, and return where its image is in the window."""
    search(page, words)
    page.locator(".tile a").first.click()
    image = page.locator(".stage img")
    expect(image).to_be_visible()
    until(page, lambda: image.evaluate("(image) => image.complete && image.naturalWidth > 0"))
    return image.bounding_box()


def drawn(page):
    """The box on the image, in percent."""
    return page.locator(FRAME).evaluate(
        "({style: s}) => [s.left, s.top, s.width, s.height].map(Number.parseFloat)"
    )


def drag(page, image, start, end):
    """Drag from one place of the image to another, given as shares of it."""
    places = [
        (image["x"] + x * image["width"], image["y"] + y * image["height"]) for x, y in (start, end)
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


def test_a_box_that_a_mouse_drags_is_searched_for_and_stays_in_the_address(page, drawings_server):
    image = open_first(page)
    item = re.search("item=([0-9a-f]+)", page.url)[1]
    drag(page, image, (0.25, 0.25), (0.75, 0.5))
    assert drawn(page) == pytest.approx([25, 25, 50, 25], abs=1)
    with expect_search(page) as answered:
        page.get_by_role("button", name="Search this part").click()
    (term,) = answered.value.request.post_data_json["terms"]
    assert term["item"] == item
    assert re.fullmatch(r"percent:[\d.,]+", term["crop"])
    expect(page.get_by_role("dialog", name="Image")).to_be_hidden()
    wait_for_results(page)
    reply = drawings_server.client.post("/v1/search", json={"terms": [term]}).json()
    expected = [hit["name"].rpartition("/")[2] for hit in reply["hits"]]
    assert names(page) == expected[:10]
    model = AutoModel.from_pretrained("pe-nano")
    vector = np.frombuffer(base64.b64decode(reply["query"]["vector"]), "<f4")
    uri = drawings_server.client.get(f"/v1/items/{item}").json()["uri"]
    cosine = (model.embed_image(uri, crop=term["crop"]) @ vector).item()
    assert cosine == pytest.approx(1, abs=1e-3)
    expect(page.get_by_role("img", name="a part of it")).to_be_visible()
    page.reload()
    wait_for_results(page)
    assert names(page) == expected[:10]
    page.go_back()
    expect(page.get_by_role("dialog", name="Image")).to_be_visible()


def test_a_box_is_moved_and_resized(page):
    image = open_first(page)
    page.get_by_role("button", name="Search by a part of the image").click()
    assert drawn(page) == [25, 25, 50, 50]
    drag(page, image, (0.5, 0.5), (0.6, 0.4))
    assert drawn(page) == pytest.approx([35, 15, 50, 50], abs=1)
    drag(page, image, (0.85, 0.65), (0.75, 0.95))
    assert drawn(page) == pytest.approx([35, 15, 40, 80], abs=1)
    drag(page, image, (0.35, 0.15), (-0.2, -0.2))  # no further than the image's edge
    assert drawn(page) == pytest.approx([0, 0, 75, 95], abs=1)
    drag(page, image, (0.9, 0.97), (0.8, 0.96))  # too small for a box: the old one stays
    assert drawn(page) == pytest.approx([0, 0, 75, 95], abs=1)


def test_keys_move_it_and_escape_cancels_without_closing_the_viewer(page):
    open_first(page)
    viewer = page.get_by_role("dialog", name="Image")
    start = page.get_by_role("button", name="Search by a part of the image")
    start.press("Enter")
    expect(page.locator(FRAME)).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Alt+ArrowDown")
    assert drawn(page) == [27, 23.25, 48, 50]
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    assert drawn(page) == [52, 23.25, 48, 50]
    page.keyboard.press("Escape")
    expect(page.locator(FRAME)).to_have_count(0)
    expect(start).to_be_focused()
    expect(viewer).to_be_visible()
    heading = viewer.get_by_role("heading").first.text_content()
    page.keyboard.press("ArrowRight")  # leads to the next image again
    expect(viewer.get_by_role("heading", name=heading, exact=True)).to_have_count(0)
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()


def test_enter_searches(page):
    open_first(page)
    page.get_by_role("button", name="Search by a part of the image").press("Enter")
    with expect_search(page) as answered:
        page.keyboard.press("Enter")
    assert answered.value.ok
    assert "like=" in page.url
    assert "xywh%3Dpercent%3A25%2C25%2C50%2C50" in page.url


def test_a_click_is_no_box(page):
    image = open_first(page)
    page.mouse.click(image["x"] + 50, image["y"] + 50)
    expect(page.locator(FRAME)).to_have_count(0)
    drag(page, image, (0.5, 0.5), (0.5, 0.9))  # without width
    expect(page.locator(FRAME)).to_have_count(0)


def test_the_box_stays_on_its_part_when_the_image_is_zoomed(page):
    open_first(page)
    page.get_by_role("button", name="Search by a part of the image").click()
    before = page.locator(FRAME).bounding_box()
    page.locator(".stage").evaluate(
        "(stage) => stage.dispatchEvent(new WheelEvent('wheel', { deltaY: -300, bubbles: true }))"
    )
    until(page, lambda: page.locator(FRAME).bounding_box()["width"] > 1.3 * before["width"])
    assert drawn(page) == [25, 25, 50, 50]
    image, frame = (page.locator(one).bounding_box() for one in (".stage img", FRAME))
    assert frame["width"] == pytest.approx(image["width"] / 2, rel=0.02)


def test_a_finger_draws_a_box_on_a_phone(open_page, drawings_server):
    page = open_page(drawings_server.url, width=390, height=780, has_touch=True, is_mobile=True)
    wait_for_results(page)
    open_first(page)
    page.get_by_role("button", name="Search by a part of the image").tap()
    image = page.locator(".stage img").bounding_box()  # it makes room for the buttons
    buttons = page.locator(".part-bar").bounding_box()
    assert image["y"] + image["height"] <= buttons["y"]
    assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= 390
    assert not overflows(page)
    client = page.context.new_cdp_session(page)

    def touch(kind, *places):
        points = [
            {"x": image["x"] + x * image["width"], "y": image["y"] + y * image["height"]}
            for x, y in places
        ]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0.1, 0.1))
    for step in (0.12, 0.15, 0.2):
        touch("touchMove", (step, step))
    touch("touchEnd")
    assert drawn(page) == pytest.approx([10, 10, 10, 10], abs=1)
    touch("touchStart", (0.2, 0.2))  # its corner
    for step in (0.4, 0.6):
        touch("touchMove", (step, step))
    touch("touchEnd")
    assert drawn(page) == pytest.approx([10, 10, 50, 50], abs=1)
    for name in ("Search this part", "Cancel"):
        expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    with expect_search(page):
        page.get_by_role("button", name="Search this part").click()
    wait_for_results(page)


def test_a_part_can_be_classified_and_is_taken_away(page):
    open_first(page)
    page.get_by_role("button", name="Search by a part of the image").press("Enter")
    with expect_search(page):
        page.keyboard.press("Enter")
    wait_for_results(page)
    page.get_by_role("button", name="Search without the image").click()
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()
    assert "like=" not in page.url


def test_assistive_technology_can_use_it(open_page, drawings_server):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(drawings_server.url, reduced_motion="reduce")
    wait_for_results(page)
    open_first(page)
    page.get_by_role("button", name="Search by a part of the image").press("Enter")
    page.wait_for_timeout(400)  # the image fades in
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(200)
        found = Axe().run(page)
        assert found.response["violations"] == [], (scheme, found.generate_report())


@pytest.fixture(scope="module")
def tiled_server(tmp_path_factory, gallery):
    """An index with tiles of one scene: a cat in its lower right part."""
    folder = tmp_path_factory.mktemp("tiled")
    scene = Image.new("RGB", (800, 600), "white")
    with Image.open(gallery / "cat.webp") as drawing:
        scene.paste(drawing.convert("RGB").resize((140, 140)), (530, 380))
    (folder / "in").mkdir()
    scene.save(folder / "in" / "scene.png")
    index = ImageIndex(folder / "t.lance", model="pe-nano")
    index.add(folder / "in", tiles="2x2", show_progress=False)
    settings = ServerSettings(indexes=(index.path,))
    with running(settings, open_model=AutoModel.from_pretrained) as server:
        yield server


def test_the_viewer_frames_the_part_that_was_found(open_page, tiled_server):
    hit = tiled_server.client.post("/v1/search", json={"terms": [{"text": "a cat"}]}).json()["hits"]
    assert [one["box"] for one in hit] == [{"x": 400, "y": 300, "width": 400, "height": 300}]
    facets = tiled_server.client.get("/v1/indexes/t/facets").json()
    assert not [name for name in facets["columns"] if name.startswith("tile_")]
    page = open_page(tiled_server.url)
    wait_for_results(page)
    image = open_first(page)
    found = page.get_by_role("img", name="The part that was found")
    box = found.bounding_box()
    assert box["x"] == pytest.approx(image["x"] + image["width"] / 2, abs=3)
    assert box["y"] == pytest.approx(image["y"] + image["height"] / 2, abs=3)
    assert box["width"] == pytest.approx(image["width"] / 2, abs=3)
    page.get_by_role("button", name="Search by a part of the image").press("Enter")
    expect(found).to_be_hidden()
