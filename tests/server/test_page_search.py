"""Searching on the page, as a person does, in a real browser."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from cli.command import pe
from PIL import Image
from playwright.sync_api import expect
from server.pages import bring, click_copy, expect_search, names, search, wait_for_results
from server.serving import in_base64, make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.index import row_id
from perception_encoder.server import ServerSettings


@pytest.fixture
def page(open_page, drawings_server):
    page = open_page(drawings_server.url)
    wait_for_results(page)
    return page


def hits(server, *terms, k=10):
    reply = server.client.post("/v1/search", json={"terms": list(terms), "k": k})
    return [hit["name"].rpartition("/")[2] for hit in reply.json()["hits"]]


def the_file(server, name):
    items = server.client.get("/v1/items", params={"limit": 1000}).json()["items"]
    return next(item for item in items if item["name"].endswith(f"/{name}"))


def test_without_a_query_the_whole_index_is_there_to_look_through(page):
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()
    expect(page.locator(".tile").nth(10)).to_be_visible()


def test_words_find_what_the_server_finds_and_the_address_says_so(page, drawings_server):
    assert search(page, "a red heart") == hits(drawings_server, {"text": "a red heart"})
    assert "q=a+red+heart" in page.url
    assert page.title() == "a red heart – Images"
    page.go_back()
    expect(page.get_by_label("Search query")).to_have_value("")
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()
    page.go_forward()
    expected = hits(drawings_server, {"text": "a red heart"})
    expect(page.locator(".tile .name").first).to_have_text(expected[0])
    assert names(page) == expected


def test_hits_have_scores_and_labels_once_the_index_is_calibrated(page):
    def forget_cutoffs(route):
        reply = route.fetch()
        body = reply.json()
        body["query"]["cutoffs"] = None  # as at the first search of a new index
        route.fulfill(response=reply, json=body)

    page.route("**/v1/search", forget_cutoffs, times=1)
    search(page, "a cat")
    expect(page.locator(".tile .mark").first).to_be_visible()
    written = page.locator(".tile .score").all_text_contents()
    scores = [float(text.split()[-1]) for text in written]
    assert scores == sorted(scores, reverse=True)
    first = page.locator(".tile a").first
    expect(first).to_have_accessible_name(
        re.compile(r"(strong match|weak match|less likely), score")
    )


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_that_is_brought_finds_itself_and_survives_a_reload(page, gallery, kind):
    bring(page, gallery / "camel.webp", kind)
    expect(page.locator(".tile .name").first).to_have_text("camel.webp")
    expect(page.locator(".tile .score").first).to_contain_text("1.00")
    expect(page.locator("#search-image img")).to_be_visible()
    assert re.search(r"image=[0-9a-f]{12}", page.url)
    page.reload()
    expect(page.locator(".tile .name").first).to_have_text("camel.webp")
    page.get_by_role("button", name="Search without the image").click()
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()


def test_an_image_can_be_chosen_from_the_disk(page, gallery):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Search with an image").click()
    chooser.value.set_files(gallery / "bear.webp")
    expect(page.locator(".tile .name").first).to_have_text("bear.webp")


def test_words_and_an_image_are_balanced(page, drawings_server, gallery):
    file = gallery / "bicycle.webp"
    bring(page, file)
    expect(page.locator(".tile .name").first).to_have_text("bicycle.webp")
    search(page, "a green book")
    balance = page.get_by_role("slider", name="Balance of text and image")
    expect(balance).to_be_visible()
    image = {"image": in_base64(file.read_bytes())}
    words = {"text": "a green book"}

    def moved(value, expected):
        with expect_search(page):
            balance.fill(str(value))
        wait_for_results(page)
        expect(page.locator(".tile .name").first).to_have_text(expected[0])
        assert names(page) == expected

    moved(0, hits(drawings_server, words))
    moved(1, hits(drawings_server, image))
    moved(0.25, hits(drawings_server, {**words, "weight": 1.5}, {**image, "weight": 0.5}))
    assert "balance=0.25" in page.url


def test_a_query_has_weights_signs_and_items_as_on_the_command_line(page, drawings_server):
    item = the_file(drawings_server, "cat.webp")["id"]
    expected = hits(
        drawings_server,
        {"text": "a bat", "weight": 2},
        {"item": item},
        {"text": "brown", "weight": -1},
    )
    assert search(page, "2:a bat + @cat.webp - brown") == expected


def test_a_query_with_a_mistake_says_where(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?q=cat+%2B", expected=("400",))
    expect(page.get_by_role("heading", name="That query cannot be used")).to_be_visible()


def test_a_query_is_searched_in_texts_in_images_or_in_both(page, drawings_server):
    mode = page.get_by_role("group", name="Search in")
    expect(mode.get_by_label("Images")).to_be_checked()
    mode.get_by_label("Text").check()
    found = search(page, '"title 20"')
    item = the_file(drawings_server, found[0])
    assert item["metadata"]["title"] == "Title 20"
    assert "in=text" in page.url
    expect(page.get_by_role("status").filter(has_text="1 image")).to_be_visible()
    expect(page.locator(".tile .mark")).to_have_count(0)  # labels are of what images look like
    with expect_search(page):
        mode.get_by_label("Both").check()
    wait_for_results(page)
    search(page, "a cat, title 20")
    both = {"terms": [{"query": "a cat, title 20"}], "text": "a cat, title 20", "k": 60}
    hits = drawings_server.client.post("/v1/search", json=both).json()["hits"]
    assert names(page, 8) == [hit["name"].rpartition("/")[2] for hit in hits[:8]]
    # The next page is asked for by vector and text.
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()
    page.go_back()
    page.go_back()
    expect(mode.get_by_label("Text")).to_be_checked()
    expect(page.locator(".tile .name")).to_have_text(found)


def test_saved_searches_are_listed_and_run(page, drawings_server, tmp_path):
    expect(page.get_by_role("button", name="Saved", exact=True)).to_be_hidden()
    path = drawings_server.services.indexes.get().path
    options = ["--camera", "Canon", "--save", "Red hearts", "--paths"]
    expected = pe("search", "a red heart", "--index", path, *options, folder=tmp_path)
    page.reload()
    page.get_by_role("button", name="Saved").click()
    saved = page.get_by_role("group", name="Saved searches")
    expect(saved.get_by_role("listitem")).to_contain_text("a red heart, with Canon")
    saved.get_by_role("link", name="Red hearts").click()
    chip = page.get_by_role("button", name="Remove the filter: saved search: Red hearts")
    expect(chip).to_be_visible()
    wait_for_results(page)
    assert names(page) == [Path(line).name for line in expected.stdout.splitlines()]
    expect(page.locator(".tile .mark").first).to_be_visible()
    assert "saved=Red+hearts" in page.url
    search(page, "a cat")
    expect(chip).to_be_hidden()
    page.go_back()
    expect(chip).to_be_visible()


def test_a_search_is_saved_with_its_filters_and_shown_again(open_page, drawings_server):
    page = open_page(drawings_server.url, expected=("400",))
    search(page, "a red heart")
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("group", name="Camera").get_by_role("checkbox").first.check()
    wait_for_results(page)
    page.get_by_label("Fold near copies").check()
    wait_for_results(page)
    found = names(page)
    page.get_by_role("button", name="Saved").click()
    panel = page.get_by_role("group", name="Saved searches")
    name = panel.get_by_label("Name of this search")
    expect(name).to_have_value("a red heart")
    name.fill("hearts/1")
    panel.get_by_role("button", name="Save this search").click()
    expect(panel.get_by_role("status")).to_contain_text("cannot name a search")
    name.fill("my hearts")
    panel.get_by_role("button", name="Save this search").click()
    link = panel.get_by_role("link", name="my hearts")
    expect(link).to_have_attribute("aria-current", "true")
    expect(name).to_be_hidden()  # it is saved
    kept = panel.get_by_role("listitem").filter(has=page.get_by_role("link", name="my hearts"))
    expect(kept).to_contain_text("a red heart, Camera: ")
    expect(kept).to_contain_text("near copies folded")
    page.goto(f"{drawings_server.url}/")
    wait_for_results(page)
    page.get_by_role("button", name="Saved").click()
    with expect_search(page):
        link.click()
    wait_for_results(page)
    assert names(page) == found
    expect(page.get_by_label("Search query")).to_have_value("a red heart")
    chips = page.get_by_role("list", name="Filters in use")
    expect(chips).to_contain_text("saved search: my hearts")
    expect(chips).to_contain_text("Camera: ")
    # A search that is changed is no longer the saved one.
    chips.get_by_role("button", name="near copies folded").click()
    expect(chips).not_to_contain_text("saved search")
    expect(name).to_be_visible()
    kept.get_by_role("button", name="Remove the saved search my hearts").click()
    expect(link).to_be_hidden()
    listed = drawings_server.client.get("/v1/indexes/drawings/searches").json()["data"]
    assert "my hearts" not in {one["name"] for one in listed}


def test_words_that_are_not_wanted_push_away(page, drawings_server):
    search(page, "an animal")
    with expect_search(page):
        page.get_by_label("Not this").fill("cat, brown")
        page.get_by_label("Not this").press("Enter")
    wait_for_results(page)
    unwanted = [{"text": "cat", "weight": -0.5}, {"text": "brown", "weight": -0.5}]
    assert names(page) == hits(drawings_server, {"text": "an animal"}, *unwanted)
    assert "not=cat%2C+brown" in page.url


def test_more_like_an_image_from_the_viewer_and_back(page, drawings_server):
    search(page, "a cat")
    before = names(page)
    page.locator(".tile a").first.click()
    viewer = page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("heading", name=before[0])).to_be_visible()
    item = the_file(drawings_server, before[0])
    expect(viewer.locator(".path")).to_have_text(item["name"])
    expect(viewer.locator("dl")).to_contain_text(f"{item['width']} × {item['height']}")
    expect(viewer.locator("dl")).to_contain_text("number")
    with expect_search(page):
        viewer.get_by_role("link", name="More like this").click()
    expect(viewer).to_be_hidden()
    assert f"like={item['id']}" in page.url
    wait_for_results(page)
    assert names(page) == hits(drawings_server, {"item": item["id"]})
    page.go_back()
    expect(viewer).to_be_visible()
    page.go_back()
    expect(viewer).to_be_hidden()
    assert names(page) == before


def test_an_image_is_zoomed_and_moved(page):
    page.locator(".tile a").first.click()
    image = page.locator(".stage img")
    expect(image).to_be_visible()
    fits = image.bounding_box()
    page.get_by_role("button", name="Zoom in").click()
    for _ in range(3):
        page.keyboard.press("+")
    zoomed = image.bounding_box()
    assert zoomed["width"] == pytest.approx(fits["width"] * 1.4**4, rel=0.01)
    heading = page.get_by_role("dialog").get_by_role("heading").first.text_content()
    page.keyboard.press("ArrowRight")  # moves the image, not on to the next one
    assert image.bounding_box()["x"] < zoomed["x"]
    assert page.get_by_role("dialog").get_by_role("heading").first.text_content() == heading
    page.mouse.move(300, 300)
    page.mouse.wheel(0, 4000)
    expect(page.locator(".stage.is-zoomed")).to_have_count(0)
    assert image.bounding_box() == fits
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog").get_by_role("heading", name=heading)).to_have_count(0)


def test_the_original_can_be_had_byte_for_byte(page, gallery):
    search(page, "a cat")
    page.locator(".tile a").first.click()
    viewer = page.get_by_role("dialog", name="Image")
    name = viewer.get_by_role("heading").first.text_content()
    with page.expect_download() as download:
        viewer.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == name
    source = gallery / name.replace(" (copy)", "")
    assert download.value.path().read_bytes() == source.read_bytes()


def test_filters_come_from_the_columns_and_go_one_by_one(page, drawings_server):
    page.get_by_role("button", name="Filters").click()
    filters = page.get_by_role("group", name="Filters")
    with page.expect_response(re.compile(r"/v1/items\?")):
        filters.get_by_role("checkbox", name=re.compile("^red")).check()
    wanted = [{"column": "color", "op": "in", "value": ["red"]}]
    found = drawings_server.client.get(
        "/v1/items", params={"filters": json.dumps(wanted), "limit": 1000}
    ).json()["items"]
    expect(page.get_by_role("status").filter(has_text=f"{len(found)} images")).to_be_visible()
    with page.expect_response(re.compile(r"/v1/items\?")):
        filters.get_by_label("number, up to").fill("9")
        filters.get_by_label("number, up to").press("Enter")
    expect(page.get_by_role("status").filter(has_text="4 images")).to_be_visible()
    search(page, "a bat")
    assert len(names(page)) == 4
    page.get_by_role("button", name="Remove the filter: number up to 9").click()
    page.get_by_role("button", name="Remove the filter: color: red").click()
    expect(page.locator("#filter-chips li")).to_have_count(0)
    page.go_back()
    expect(page.locator("#filter-chips li")).to_have_count(1)


def test_images_of_one_folder(page):
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Folder").select_option("copies (2)")
    expect(page.get_by_role("status").filter(has_text="2 images")).to_be_visible()
    expect(page.locator(".tile")).to_have_count(2)
    assert sorted(names(page)) == ["castle-again.png", "cat (copy).webp"]
    page.get_by_role("button", name="Remove the filter: folder: images/copies").click()
    expect(page.get_by_label("Folder")).to_have_value("")


def test_images_are_sorted(page, drawings_server):
    page.get_by_label("Sort").select_option("Largest file first")
    listing = {"sort": "size", "descending": True, "limit": 5}
    items = drawings_server.client.get("/v1/items", params=listing).json()["items"]
    largest = [item["name"].rpartition("/")[2] for item in items]
    expect(page.locator(".tile .name").first).to_have_text(largest[0])
    assert names(page, 5) == largest
    assert "sort=-size" in page.url
    page.reload()
    wait_for_results(page)
    assert names(page, 5) == largest


def test_several_images_are_selected_by_mouse(page):
    bar = page.get_by_role("region", name="Selection")
    page.locator(".tile").nth(1).hover()
    page.locator(".tile").nth(1).get_by_role("checkbox").check()
    page.locator(".tile a").nth(4).click(modifiers=["Shift"])
    page.locator(".tile a").nth(2).click(modifiers=["ControlOrMeta"])
    expect(bar).to_contain_text("3 images selected")
    shown = names(page)
    chosen = [shown[1], shown[3], shown[4]]
    expect(page.locator(".tile.is-selected .name")).to_have_text(chosen)
    with page.expect_download() as download:
        bar.get_by_role("button", name="Export CSV").click()
    with download.value.path().open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"].rpartition("/")[2] for row in rows] == chosen
    assert rows[0]["number"] == "1"
    with page.expect_download() as download:
        bar.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert sorted(Path(name).name for name in archive.namelist()) == sorted(chosen)
    search(page, "a heart")
    expect(bar).to_contain_text("3 images selected")
    page.go_back()
    expect(page.locator(".tile.is-selected .name")).to_have_text(chosen)
    bar.get_by_role("button", name="Clear").click()
    expect(bar).to_be_hidden()


def test_several_images_are_selected_by_keys(page, drawings_server):
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { window.c = text; }; }")
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowLeft")
    bar = page.get_by_role("region", name="Selection")
    expect(bar.get_by_role("status")).to_have_text("2 images selected")
    click_copy(page, bar.get_by_role("button", name="Copy paths"))
    items = drawings_server.client.get("/v1/items", params={"limit": 2}).json()["items"]
    assert page.evaluate("window.c").splitlines() == [item["name"] for item in items]
    page.locator(".tile a").first.focus()
    page.keyboard.press("Escape")
    expect(bar).to_be_hidden()


def test_filters_that_nothing_meets_say_so_and_can_be_cleared(open_page, drawings_server):
    page = open_page(f'{drawings_server.url}/?f=["number",">",1000]')
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()


def test_near_copies_can_be_folded(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?q=a+cat&fold")
    wait_for_results(page)
    expect(page.locator(".tile .also").first).to_be_visible()
    assert not {"cat.webp", "cat (copy).webp"} <= set(names(page, 100))


def test_everything_by_keys_alone(page):
    page.keyboard.press("/")
    page.keyboard.type("a cat")
    with expect_search(page):
        page.keyboard.press("Enter")
    wait_for_results(page)
    found = names(page)
    page.keyboard.press("ArrowDown")  # from the box into the results
    focused = page.locator(".tile a:focus")

    def top():
        return focused.evaluate("(tile) => tile.getBoundingClientRect().top + scrollY")

    expect(focused.locator(".name")).to_have_text(found[0])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(focused.locator(".name")).to_have_text(found[1])
    at_top = top()
    page.keyboard.press("ArrowDown")
    assert top() > at_top
    page.keyboard.press("ArrowUp")
    assert top() == at_top
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(focused.locator(".name")).to_have_text(found[1])
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("heading", name=found[1], exact=True)).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", name=found[2], exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(focused.locator(".name")).to_have_text(found[2])
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()


def test_the_focus_stays_while_more_images_load(open_page, drawings_server):
    page = open_page(drawings_server.url, height=500)
    wait_for_results(page)
    last = int(page.locator(".tile").last.get_attribute("data-at"))
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    tile = page.locator('.tile[data-at="0"] a')
    expect(tile).to_be_focused()
    with page.expect_response(re.compile(r"/v1/items\?")):
        page.keyboard.press("End")
    expect(page.locator(".tile a:focus")).to_be_in_viewport()
    page.keyboard.press("Home")
    expect(tile).to_be_focused()
    assert last < 121


def test_the_focused_tile_has_a_visible_ring(page):
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    tile = page.locator('.tile[data-at="0"] .frame-of')
    accent = page.evaluate("getComputedStyle(document.querySelector('.primary')).backgroundColor")
    shot = Image.open(io.BytesIO(tile.screenshot())).convert("RGB")
    ring = shot.getpixel((2, shot.height // 2))
    assert f"rgb{ring}" == accent


def test_an_address_can_be_shared(open_page, drawings_server):
    item = the_file(drawings_server, "cat.webp")["id"]
    address = (
        f"{drawings_server.url}/?q=a+cat&not=dog&f=%5B%22number%22%2C%22%3E%22%2C5%5D&item={item}"
    )
    page = open_page(address)
    viewer = page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("heading", name="cat.webp")).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.get_by_label("Search query")).to_have_value("a cat")
    expect(page.get_by_label("Not this")).to_have_value("dog")
    expect(page.locator("#filter-chips")).to_contain_text("number above 5")


def test_a_link_to_an_image_of_another_browser_says_so(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?image=0123456789ab")
    expect(page.get_by_text("The image of this link is not here")).to_be_visible()
    page.get_by_role("button", name="Search without it").click()
    wait_for_results(page)


def test_a_file_that_is_no_image_is_refused_with_a_reason(open_page, drawings_server, tmp_path):
    page = open_page(drawings_server.url, expected=("400",))
    file = tmp_path / "notes.png"
    file.write_text("these are only words")
    bring(page, file)
    expect(page.get_by_text("That image cannot be used")).to_be_visible()
    expect(page.locator(".message p")).to_contain_text("image 0")
    page.get_by_role("button", name="Search without it").click()
    wait_for_results(page)


def test_another_index_can_be_chosen(page):
    page.get_by_role("combobox", name="Index").select_option("few")
    expect(page.get_by_role("status").filter(has_text="5 images")).to_be_visible()
    expect(page).to_have_url(re.compile("index=few"))
    page.go_back()
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()


def test_an_address_of_an_index_that_has_gone_says_so(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?q=heart&index=gone")
    expect(page.get_by_text("There is no such index here")).to_be_visible()
    expect(page.locator(".message p")).to_contain_text('no index "gone"')
    page.get_by_role("combobox", name="Index").select_option("few")
    expect(page.get_by_text("There is no such index here")).to_be_hidden()


def test_an_address_of_no_image_says_so_and_lets_one_go_on(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?item={row_id('nowhere')}", expected=("404",))
    expect(page.get_by_text("That image cannot be shown")).to_be_visible()
    page.keyboard.press("Escape")
    wait_for_results(page)


def test_an_image_that_has_gone_leaves_a_tile_that_says_so(open_page, tmp_path):
    files = save_drawings(tmp_path, 3)
    make_index(tmp_path / "moved.lance", open_tiny(), files)
    files[1].unlink()
    settings = ServerSettings(indexes=(str(tmp_path / "moved.lance"),))
    with running(settings, open_model=lambda _: open_tiny()) as server:
        page = open_page(server.url, expected=("404",))
        expect(page.locator(".tile img.is-drawn")).to_have_count(2)
        expect(page.get_by_text("cannot be shown")).to_have_count(1)
        page.get_by_text("cannot be shown").click()
        expect(page.get_by_text("The image is not where it was")).to_be_visible()
