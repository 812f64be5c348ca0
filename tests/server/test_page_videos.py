"""Videos on the page: from the timeline to a moment, along its video, and to moments like it."""

import datetime
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from server.pages import expect_search, names, until, wait_for_results
from server.serving import running
from video_clips import gallery, write_clip

from perception_encoder import AutoModel
from perception_encoder.index import Index, Row
from perception_encoder.server import ServerSettings
from perception_encoder.video.names import format_moment

CLIPS = {"garden.webm": ("rose", "airplane", "bee"), "trip.webm": ("banana", "rose", "bus")}
SECONDS = 3.0  # of each scene
DAY = datetime.datetime(2024, 5, 4, 10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server over two videos of three scenes each, and one that no browser can play."""
    folder = tmp_path_factory.mktemp("videos")
    model = AutoModel.from_pretrained("pe-nano")
    index = Index.create(folder / "videos.lance", model.identity)
    rows, scenes = [], []
    for days, (name, shown) in enumerate(CLIPS.items()):
        path = write_clip(folder / name, shown, SECONDS, codec="libvpx-vp9")
        rows += [moment(path, days, number) for number in range(len(shown))]
        scenes += shown
    index.add(rows, model.embed_images([gallery(scene) for scene in scenes]))
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    others = Index.create(folder / "others.lance", model.identity)
    row = moment(broken, 0, 0)
    row = replace(row, metadata={**row.metadata, "damaged_packets": 7})
    others.add([row], model.embed_images([gallery("bee")]))
    settings = ServerSettings(
        indexes=(str(folder / "videos.lance"), str(folder / "others.lance")),
        cache_folder=folder / "thumbnails",
    )
    with running(settings, open_model=lambda _: model) as running_server:
        yield running_server


def moment(path: Path, days: int, number: int) -> Row:
    start = SECONDS * number
    times = {"start": start, "end": start + SECONDS, "frame_time": start + SECONDS / 2}
    return Row(
        uri=str(path),
        member=format_moment(times["frame_time"]),
        width=160,
        height=120,
        bytes=path.stat().st_size,
        metadata={**times, "taken_at": DAY - datetime.timedelta(days=days)},
    )


def seconds(page: Page) -> float:
    return float(page.evaluate("document.querySelector('video').currentTime"))


def test_from_the_timeline_to_a_video_its_moments_and_moments_like_them(open_page, server):
    page = open_page(f"{server.url}/?sort=-taken")
    wait_for_results(page)
    expect(page.get_by_role("heading", level=3).first).to_have_text("Sat, May 4")
    tiles = page.locator(".tile a")
    expect(tiles).to_have_count(2)  # one for each video, however many moments it has
    expect(tiles.nth(0).locator(".moment")).to_have_text("3 moments")
    expect(tiles.nth(0)).to_have_accessible_name(re.compile("garden, 3 moments"))
    with page.expect_response(re.compile(r"/video\?")) as part:
        tiles.nth(0).click()
    assert part.value.status == 206
    viewer = page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("heading", name="garden.webm")).to_be_visible()
    expect(viewer.locator("dl")).to_contain_text("0:00 – 0:03")

    bar = viewer.get_by_role("group", name="Moments").get_by_role("button")
    expect(bar).to_have_count(3)
    expect(bar.nth(0)).to_have_attribute("aria-current", "true")
    bar.nth(2).click()
    expect(viewer.locator("dl")).to_contain_text("0:06 – 0:09")
    expect(bar.nth(2)).to_have_attribute("aria-current", "true")
    until(page, lambda: 6 < seconds(page) < 9)
    page.keyboard.press("ArrowRight")  # from any moment to what comes after the video
    expect(viewer.get_by_role("heading", name="trip.webm")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(viewer.get_by_role("heading", name="garden.webm")).to_be_visible()
    expect(bar.nth(0)).to_have_attribute("aria-current", "true")

    with expect_search(page):
        viewer.get_by_role("link", name="Similar moments").click()
    expect(viewer).to_be_hidden()
    wait_for_results(page)
    expect(page.get_by_role("button", name="Remove the filter: moments of videos")).to_be_visible()
    assert names(page, 1) == ["trip.webm"]  # the other rose
    expect(page.locator(".tile .moment").first).to_have_text("0:03")


def test_the_viewer_returns_to_the_tile_of_the_video(open_page, server):
    page = open_page(f"{server.url}/?sort=-taken")
    wait_for_results(page)
    page.locator(".tile a").nth(1).click()
    page.get_by_role("group", name="Moments").get_by_role("button").nth(1).click()
    expect(page.locator("#viewer dl")).to_contain_text("0:03 – 0:06")
    page.keyboard.press("Escape")
    expect(page.locator(".tile a").nth(1)).to_be_focused()


def test_filters_by_the_times_of_moments_list_moments(open_page, server):
    filters = quote('["start",">=",3]')
    page = open_page(f"{server.url}/?sort=taken&f={filters}")
    wait_for_results(page)
    expect(page.locator(".tile a")).to_have_count(4)
    expect(page.locator(".tile .moment").first).to_have_text("0:03")


def test_damaged_packets_are_told(open_page, server):
    page = open_page(f"{server.url}/?index=others", expected=("404",))
    page.locator(".tile a").first.click()
    expect(page.locator("#viewer dl")).to_contain_text("Damaged7 packets")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_assistive_technology_can_use_a_video(open_page, server, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(f"{server.url}/?sort=-taken", color_scheme=scheme, reduced_motion="reduce")
    wait_for_results(page)
    page.wait_for_timeout(400)  # images fade in, and half an image has half its contrast
    found = Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
    page.locator(".tile a").first.click()
    bar = page.get_by_role("group", name="Moments").get_by_role("button")
    expect(bar).to_have_count(3)
    page.wait_for_timeout(400)
    found = Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()


def test_a_video_ends_with_the_viewer(open_page, server):
    page = open_page(f"{server.url}/?q=a+bee")
    wait_for_results(page)
    page.locator(".tile a").first.click()
    expect(page.locator("video")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("video")).to_have_count(0)


def test_a_video_that_cannot_be_played_can_be_downloaded(open_page, server):
    page = open_page(f"{server.url}/?index=others", expected=("404",))
    page.locator(".tile a").first.click()
    viewer = page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_text("This browser cannot play this video here.")).to_be_visible()
    with page.expect_download() as download:
        viewer.get_by_role("link", name="Download the video").click()
    assert download.value.suggested_filename == "broken.mp4"
    assert download.value.path().read_bytes() == b"no video"
