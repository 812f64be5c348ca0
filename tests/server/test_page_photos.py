"""Photos on the page: the timeline, the map of places, and what the camera wrote, in a browser."""

import json
import re

import pytest
from playwright.sync_api import Page, expect
from server.pages import wait_for_results

TIMELINE = "?sort=-taken"


@pytest.fixture
def timeline(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/{TIMELINE}")
    wait_for_results(page)
    return page


def listed(server, filters=(), **parameters):
    asked = {"filters": json.dumps(list(filters)), "limit": 1000, **parameters}
    return server.client.get("/v1/items", params=asked).json()["items"]


def taken(server, *filters):
    return listed(server, filters, sort="taken_at", descending=True)


def shown(page: Page) -> list[str]:
    """Files of the tiles in the window and near it, in order."""
    titles = page.locator(".tile a").evaluate_all("(all) => all.map((one) => one.title)")
    return [title.rpartition("/")[2] for title in titles]


def of_day(server, day):
    period = [
        {"column": "taken_at", "op": op, "value": f"{day}T{time}"}
        for op, time in ((">=", "00:00"), ("<=", "23:59:59"))
    ]
    return [item["name"].rpartition("/")[2] for item in taken(server, *period)]


def test_the_timeline_has_months_and_days_the_newest_first(timeline, drawings_server):
    expect(timeline.get_by_role("link", name="Timeline")).to_have_attribute("aria-current", "page")
    expect(timeline.get_by_role("status").filter(has_text="122 images")).to_be_visible()
    months = timeline.get_by_role("heading", level=2)
    expect(months.first).to_have_text("July 2021")
    days = timeline.get_by_role("heading", level=3)
    expect(days.first).to_have_text("Sat, Jul 3")
    expect(timeline.locator(".tile img.is-drawn").first).to_be_visible()
    newest = [item["name"].rpartition("/")[2] for item in taken(drawings_server)]
    assert shown(timeline)[:12] == newest[:12]
    expect(timeline.locator(".tile a").first).to_have_accessible_name(re.compile("Jul 3, 2021"))
    timeline.get_by_label("Sort").select_option("Taken, oldest first")
    expect(months.first).to_have_text("January 2019")
    wait_for_results(timeline)
    oldest = listed(drawings_server, sort="taken_at", limit=12)
    assert shown(timeline)[:12] == [item["name"].rpartition("/")[2] for item in oldest]


def test_the_strip_of_months_goes_to_any_month_by_keys_and_by_mouse(timeline):
    strip = timeline.get_by_role("slider", name="Month")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("July 2021, 2 images"))
    strip.press("PageDown")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("October 2020"))
    expect(timeline.get_by_role("heading", name="October 2020")).to_be_in_viewport()
    strip.press("ArrowDown")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("July 2020"))
    strip.press("End")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("No date, 12 images"))
    expect(timeline.get_by_role("heading", name="No date")).to_be_in_viewport()
    strip.press("Home")
    assert timeline.evaluate("scrollY") < 300
    box = strip.bounding_box()
    timeline.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(timeline.locator(".months output")).to_have_text(re.compile(r"20\d\d · \d+ images"))
    timeline.mouse.down()
    timeline.mouse.up()
    expect(timeline.locator(".tile img.is-drawn").first).to_be_visible()
    assert timeline.evaluate("scrollY") > 300


def test_arrows_lead_from_day_to_day_and_the_viewer_goes_on(timeline, drawings_server):
    order = [item["name"].rpartition("/")[2] for item in taken(drawings_server)]
    timeline.keyboard.press("/")
    timeline.keyboard.press("ArrowDown")
    focused = timeline.locator(".tile a:focus")
    timeline.keyboard.press("ArrowDown")
    expect(focused).to_have_attribute("title", re.compile(re.escape(order[2])))  # of April
    timeline.keyboard.press("Enter")
    viewer = timeline.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("heading", name=order[2], exact=True)).to_be_visible()
    timeline.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", name=order[3], exact=True)).to_be_visible()
    timeline.keyboard.press("Escape")
    expect(focused).to_have_attribute("title", re.compile(re.escape(order[3])))


def test_the_panel_says_what_the_camera_wrote_and_leads_to_images_like_it(
    open_page, drawings_server
):
    (item,) = listed(drawings_server, [{"column": "title", "op": "=", "value": "Title 20"}])
    page = open_page(f"{drawings_server.url}/?item={item['id']}")
    viewer = page.get_by_role("dialog", name="Image")
    facts = viewer.locator("dl")
    expect(viewer.get_by_text("Title 20")).to_be_visible()
    expect(facts).to_contain_text("Fri, Apr 5, 2019, 9:20 AM UTC+1")
    expect(facts).to_contain_text("Canon EOS R5")
    expect(facts).to_contain_text("1/250 s · f/2.8 · ISO 200")
    viewer.get_by_role("link", name="Fri, Apr 5, 2019").click()
    expect(viewer).to_be_hidden()
    names = of_day(drawings_server, "2019-04-05")
    count = page.get_by_role("status").filter(has_text=f"{len(names)} images")
    expect(count).to_be_visible()
    expect(page.get_by_role("heading", level=3)).to_have_text("Fri, Apr 5")
    wait_for_results(page)
    assert shown(page) == names
    page.go_back()
    viewer.get_by_role("link", name="Munich").click()
    expect(page.get_by_role("button", name="Remove the filter: Place is Munich")).to_be_visible()
    page.go_back()
    viewer.get_by_role("link", name="Show the place on the map").click()
    expect(page.get_by_role("heading", name="Places")).to_be_visible()


def test_dates_places_and_cameras_are_filters(timeline, drawings_server):
    timeline.get_by_role("button", name="Filters").click()
    filters = timeline.get_by_role("group", name="Filters")
    filters.get_by_role("checkbox", name=re.compile("^Lisbon")).check()
    filters.get_by_role("checkbox", name=re.compile("^Apple iPhone")).check()
    filters.get_by_role("button", name="2020").click()
    wanted = [
        {"column": "place", "op": "=", "value": "Lisbon"},
        {"column": "taken_at", "op": ">=", "value": "2020-01-01T00:00"},
        {"column": "taken_at", "op": "<", "value": "2021-01-01T00:00"},
    ]
    number = len(taken(drawings_server, *wanted))
    expect(timeline.get_by_role("status").filter(has_text=f"{number} images")).to_be_visible()
    expect(filters.get_by_label("Taken, from")).to_have_value("2020-01-01")
    chips = timeline.locator("#filter-chips")
    expect(chips).to_contain_text("Taken from Jan 1, 2020")
    filters.get_by_role("button", name="2020").click()
    expect(chips).not_to_contain_text("Taken")
    timeline.get_by_role("link", name="Places").click()
    expect(timeline.get_by_role("button", name="Remove the filter: Place: Lisbon")).to_be_visible()
    expect(timeline.locator(".marker")).to_have_count(1)


def test_places_are_on_the_map_and_lead_to_their_images(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?view=places")
    located = listed(drawings_server, [{"column": "latitude", "op": "has"}])
    status = page.get_by_role("status")
    expect(status.filter(has_text=f"{len(located)} images of 122 with a place")).to_be_visible()
    expect(page.locator(".world .land")).to_have_attribute("d", re.compile("^M"))
    markers = page.locator(".marker")
    expect(markers).to_have_count(3)
    page.wait_for_load_state("networkidle")  # the whole world first, then clusters of this scale
    for place in ("Lisbon", "Suva"):
        here = [item for item in located if item["metadata"]["place"] == place]
        side = "W" if place == "Lisbon" else "E"
        name = re.compile(rf"^{len(here)} images near .* {side}$")
        marker = page.get_by_role("link", name=name).last
        assert int(marker.locator(".number").text_content()) == len(here)
        marker.press("Enter")
        expect(status.filter(has_text=f"{len(here)} images")).to_be_visible()
        wait_for_results(page)
        expect(page.get_by_role("link", name="Timeline")).to_have_attribute("aria-current", "page")
        page.go_back()
        expect(markers).to_have_count(3)


def test_the_map_is_zoomed_and_moved_and_shows_its_part(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?view=places")
    markers = page.locator(".marker")
    expect(markers).to_have_count(3)
    page.wait_for_load_state("networkidle")  # the whole world first, then clusters of this scale
    surface = page.get_by_role("group", name="Map of the world")
    lisbon = page.get_by_role("link", name=re.compile("near 38.*W$"))
    expect(lisbon).to_be_in_viewport()
    box = lisbon.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -500)
    expect(markers).to_have_count(1)
    page.get_by_role("button", name="Show the images of this part").click()
    here = listed(drawings_server, [{"column": "place", "op": "=", "value": "Lisbon"}])
    expect(page.get_by_role("status").filter(has_text=f"{len(here)} images")).to_be_visible()
    page.go_back()
    expect(markers).to_have_count(1)  # as it was
    for _ in range(10):
        surface.press("ArrowDown")
    expect(markers).to_have_count(0)
    surface.press("0")
    expect(markers).to_have_count(3)


@pytest.mark.parametrize(
    ("view", "title"), [(TIMELINE, "No image has a date"), ("?view=places", "No image has a place")]
)
def test_an_index_without_metadata_says_how_to_read_it(open_page, drawings_server, view, title):
    page = open_page(f"{drawings_server.url}/{view}&index=few", expected=("400",))
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.locator(".message pre")).to_contain_text("pe index --refresh-metadata --index")


def test_filters_go_along_to_clusters(open_page, drawings_server):
    page = open_page(f'{drawings_server.url}/?f=["camera","%3D","Canon EOS R5"]')
    expect(page.get_by_role("status").filter(has_text="61 images")).to_be_visible()
    page.get_by_role("link", name="Clusters").click()
    clusters = page.locator("#view-clusters")
    expect(clusters.get_by_role("status")).to_contain_text("of 61 images")
    clusters.get_by_role("link", name="Show all").first.click()
    expect(page.get_by_role("button", name="Remove the filter: Camera is Canon")).to_be_visible()
