"""How the page looks and behaves on screens: colors, narrow windows, screen readers, many rows."""

import datetime

import numpy as np
import pytest
from playwright.sync_api import expect
from server.pages import (
    expect_search,
    names,
    overflows,
    place_of_last,
    scroll_beyond,
    until,
    wait_for_results,
)
from server.serving import image, running, wait_for_cutoffs
from small_models import open_tiny

from perception_encoder.index import Index, Row
from perception_encoder.server import ServerSettings

VIEWS = [
    "?q=a+cat&not=dog",
    "?sort=-taken",
    "?view=places",
    "?view=clusters",
    "?view=map",
    "?view=duplicates&tier=similar",
    "?view=classify",
    "?view=index",
]
NUM_MANY = 100_000
NAMES = 250
FIRST_DAY = datetime.datetime(2001, 1, 1)


def ground(page) -> int:
    """Lightness of the page's ground, 0 to 255."""
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(color.partition("(")[2].partition(",")[0])


def ready(page, view) -> None:
    if "q=" in view:
        wait_for_results(page)
        expect(page.locator(".tile .mark").first).to_be_visible()
    elif "taken" in view:
        expect(page.locator(".day-heading").first).to_be_visible()
    elif "places" in view:
        expect(page.locator(".marker").first).to_be_visible()
    elif "duplicates" in view:
        expect(page.locator(".group").first).to_be_visible()
    elif "clusters" in view:
        expect(page.locator(".cluster").first).to_be_visible()
    elif "map" in view:
        expect(page.locator("canvas")).to_be_visible()
    elif "index" in view:
        expect(page.locator(".facts")).to_be_visible()


def test_it_follows_the_system_until_somebody_chooses(open_page, drawings_server):
    page = open_page(drawings_server.url, color_scheme="dark")
    assert ground(page) < 50
    toggle = page.get_by_role("button", name="Dark colors")
    expect(toggle).to_have_attribute("aria-pressed", "true")
    toggle.click()
    assert ground(page) > 200
    expect(toggle).to_have_attribute("aria-pressed", "false")
    page.reload()
    assert ground(page) > 200
    assert ground(open_page(drawings_server.url, color_scheme="light")) > 200


CONTROLS = """(all) => all.filter((one) => !one.closest(".members")).map((one) => {
  const { left, right } = one.getBoundingClientRect();
  return [left, right];
})"""


@pytest.mark.parametrize("width", [320, 768])
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off_on_narrow_screens(open_page, drawings_server, view, width):
    page = open_page(f"{drawings_server.url}/{view}", width=width, height=740)
    ready(page, view)
    assert not overflows(page)
    controls = page.locator("main button:visible, main input:visible").evaluate_all(CONTROLS)
    assert [one for one in controls if one[0] < -2 or one[1] > width + 2] == []
    expect(page.locator("header a[aria-current]")).to_be_in_viewport(ratio=1)
    if "q=" in view:
        page.get_by_role("button", name="Filters").click()
        expect(page.get_by_label("number, up to")).to_be_visible()
        assert not overflows(page)
        page.locator(".tile a").first.click()
        expect(page.get_by_role("link", name="More like this")).to_be_visible()
        assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= width


@pytest.mark.parametrize("view", [*VIEWS, "filters", "viewer", "compare", "nothing"])
def test_assistive_technology_can_use_it_in_light_and_dark(open_page, drawings_server, view):
    from axe_playwright_python.sync_playwright import Axe

    start = {"compare": "?view=duplicates&tier=similar", "nothing": '?f=["number",">",1000]'}.get(
        view, view
    )
    start = VIEWS[0] if view in ("filters", "viewer") else start
    page = open_page(
        f"{drawings_server.url}/{start}", color_scheme="light", reduced_motion="reduce"
    )
    ready(page, start)
    if view == "filters":
        page.get_by_role("button", name="Filters").click()
        expect(page.get_by_label("number, up to")).to_be_visible()
    elif view == "viewer":
        page.locator(".tile a").first.click()
        expect(page.get_by_role("link", name="More like this")).to_be_visible()
    elif view == "compare":
        page.get_by_role("button", name="Compare").first.click()
    page.wait_for_load_state("networkidle")  # all images are there
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert (ground(page) < 50) == (scheme == "dark")
        found = Axe().run(page)
        assert found.response["violations"] == [], (scheme, found.generate_report())


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index of 100,000 rows of made vectors, each with a path of its own to the same drawing."""
    folder = tmp_path_factory.mktemp("many")
    images = folder / "images"
    images.mkdir()
    drawing = image(1, 120, 90)
    (images / "0.png").write_bytes(drawing)
    for number in range(1, NAMES):
        (images / f"{number}.png").hardlink_to(images / "0.png")
    for number in range(NUM_MANY // NAMES):
        (folder / str(number)).symlink_to(images)

    def path_of(number):
        return folder / str(number // NAMES) / f"{number % NAMES}.png"

    model = open_tiny()
    random = np.random.default_rng(3)
    index = Index.create(folder / "many.lance", model.identity)
    for start in range(0, NUM_MANY, 20_000):
        vectors = random.normal(size=(20_000, model.identity.embed_dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        widths = random.integers(60, 200, size=20_000)
        rows = [
            Row(
                str(path_of(start + n)),
                bytes=len(drawing),
                width=int(widths[n]),
                height=100,
                metadata={"taken_at": FIRST_DAY + (start + n) * datetime.timedelta(hours=2)},
            )
            for n in range(20_000)
        ]
        index.add(rows, vectors)
    settings = ServerSettings(
        indexes=(str(folder / "many.lance"),), cache_folder=folder / "thumbnails"
    )
    with running(settings, open_model=lambda _: open_tiny()) as server:
        wait_for_cutoffs(server)
        yield server


SHIFTS = """(() => {
  window.shifts = [];
  const named = ({ node, previousRect: { y }, currentRect }) =>
    `${node?.nodeName} ${node?.className} ${node?.id} ${y} to ${currentRect.y}`;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      // Further hits push the footer down where the window is at the end already.
      const moved = entry.sources.filter(({ node }) => node?.id !== "hints");
      if (entry.hadRecentInput || !moved.length) continue;
      window.shifts.push([entry.value, moved.map(named)]);
    }
  }).observe({ type: "layout-shift", buffered: true });
})()"""


def test_many_images_are_looked_through_without_many_elements(open_page, many):
    page = open_page(many.url)
    wait_for_results(page)
    expect(page.get_by_role("status").filter(has_text="100,000 images")).to_be_visible()
    scroll_beyond(page, 5000)
    in_the_middle = (
        "[0.3, 0.5, 0.7].some((part) => document.elementFromPoint("
        "part * innerWidth, innerHeight / 2).closest('.tile'))"
    )
    until(page, lambda: page.evaluate(in_the_middle))
    page.evaluate("scrollTo(0, 0)")
    expect(page.locator('.tile[data-at="0"] img.is-drawn')).to_be_visible()


def test_the_slider_goes_to_any_image(open_page, many):
    page = open_page(f"{many.url}/?sort=name")
    wait_for_results(page)
    slider = page.get_by_role("slider", name="Position in the images")
    slider.fill("4321")
    expect(page.locator('.tile[data-at="4321"]')).to_be_in_viewport()
    until(page, lambda: abs(int(slider.input_value()) - 4321) < 20)
    page.evaluate("scrollTo(0, 0)")
    until(page, lambda: slider.input_value() == "0")


def test_the_timeline_goes_to_any_month_without_what_is_between(open_page, many):
    page = open_page(f"{many.url}/?sort=-taken")
    wait_for_results(page)
    height = page.evaluate("document.documentElement.scrollHeight")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("slider", name="Month").press("End")
    expect(page.get_by_role("heading", name="January 2001")).to_be_in_viewport()
    expect(page.locator(".tile img.is-drawn").first).to_be_visible()
    pages = [url for url in asked if "/v1/items?" in url]
    assert 1 <= len(pages) <= 2
    assert page.locator(".tile").count() < 250
    assert page.evaluate("document.documentElement.scrollHeight") == height


def test_nothing_jumps_while_images_come(open_page, many):
    page = open_page(f"{many.url}/?q=a+cat")
    page.evaluate(SHIFTS)
    wait_for_results(page)
    for _ in range(12):
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(50)
    until(page, lambda: place_of_last(page) > 60)
    shifts = page.evaluate("window.shifts")
    assert sum(value for value, _ in shifts) < 0.01, shifts


def test_hits_go_on_while_one_scrolls_and_stand_where_they_stood_on_the_way_back(open_page, many):
    page = open_page(f"{many.url}/?q=a+cat")
    wait_for_results(page)
    scroll_beyond(page, 300)
    written = page.locator(".tile .score").all_text_contents()
    scores = [float(text.split()[-1]) for text in written]
    assert scores == sorted(scores, reverse=True)
    page.evaluate("scrollBy(0, -900)")
    page.wait_for_timeout(300)
    page.locator(".tile a").nth(20).click()
    place, shown = page.evaluate("scrollY"), set(names(page, 500))
    with expect_search(page):
        page.get_by_role("link", name="More like this").click()
    until(page, lambda: page.evaluate("scrollY") == 0)
    page.go_back()
    page.go_back()
    until(page, lambda: abs(page.evaluate("scrollY") - place) < 400)
    assert len(shown & set(names(page, 500))) > 10
