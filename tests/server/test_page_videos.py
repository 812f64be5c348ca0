"""Videos on the page: from the timeline to a moment, along its video, and to moments like it."""

import datetime
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from server.pages import names, until, wait_for_results
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
    others.add([moment(broken, 0, 0)], model.embed_images([gallery("bee")]))
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


def test_from_the_timeline_to_a_day_a_moment_and_moments_like_it(open_page, server):
    page = open_page(f"{server.url}/?sort=-taken")
    wait_for_results(page)
    expect(page.get_by_role("heading", level=3).first).to_have_text("Sat, May 4")
    tiles = page.locator(".tile a")
    expect(tiles.nth(2).locator(".moment")).to_have_text("0:06")
    expect(tiles.nth(2)).to_have_accessible_name(re.compile("garden at 0:06"))
    with page.expect_response(re.compile(r"/video\?")) as part:
        tiles.nth(2).click()
    assert part.value.status == 206
    viewer = page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("heading", name="garden.webm")).to_be_visible()
    expect(viewer.locator("dl")).to_contain_text("0:06 – 0:09")
    until(page, lambda: 6 < seconds(page) < 9)

    bar = viewer.get_by_role("group", name="Moments").get_by_role("button")
    expect(bar).to_have_count(3)
    expect(bar.nth(2)).to_have_attribute("aria-current", "true")
    bar.nth(0).click()
    expect(viewer.locator("dl")).to_contain_text("0:00 – 0:03")
    expect(bar.nth(0)).to_have_attribute("aria-current", "true")
    until(page, lambda: 0 < seconds(page) < 5)
    page.keyboard.press("ArrowRight")
    expect(viewer.locator("dl")).to_contain_text("0:03 – 0:06")
    page.keyboard.press("ArrowLeft")
    expect(viewer.locator("dl")).to_contain_text("0:00 – 0:03")

    with page.expect_response("**/v1/search"):
        viewer.get_by_role("link", name="Similar moments").click()
    expect(viewer).to_be_hidden()
    wait_for_results(page)
    expect(page.get_by_role("button", name="Remove the filter: moments of videos")).to_be_visible()
    assert names(page, 1) == ["trip.webm"]  # the other rose
    expect(page.locator(".tile .moment").first).to_have_text("0:03")


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
