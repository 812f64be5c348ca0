"""For tests of the page: a real browser, Chromium driven by Playwright, and drawings to look at."""

import datetime
import os
import shutil
import warnings
from pathlib import Path

import pytest
from kept_prompts import keeping_prompts
from PIL import Image
from server.serving import make_index, running, wait_for_cutoffs

from perception_encoder import AutoModel
from perception_encoder.index import MetadataValue
from perception_encoder.server import ServerSettings

WAIT_MS = 60_000  # a busy machine takes its time, and what never comes is found by it, too
IN_CONTAINERS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def chromium() -> str | None:
    """The path of the program; without windows it takes half the processor time."""
    return (
        os.environ.get("PE_CHROMIUM")
        or shutil.which("chromium-headless-shell")
        or shutil.which("chromium")
    )


def launch(kind, *arguments: str):
    """Start a browser of its own with those further arguments."""
    return kind.launch(executable_path=chromium(), args=[*IN_CONTAINERS, *arguments])


@pytest.fixture(scope="module")
def browser():
    """Chromium; where there is none the test is skipped, but never in CI.

    It ends with its module: Playwright keeps an event loop running in this thread, and tests of
    other modules start their own.
    """
    from playwright.sync_api import expect, sync_playwright

    if chromium() is None:
        message = "no chromium: apt-get install chromium-headless-shell, or set PE_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    expect.set_options(timeout=WAIT_MS)
    with warnings.catch_warnings():
        # Lance warns of any fork; this one only leads to another program.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        driver = sync_playwright().start()
    try:
        started = launch(driver.chromium)
        yield started
        started.close()
    finally:
        driver.stop()


@pytest.fixture
def open_page(browser):
    """Opens the page in a window of its own; no window may log an error or break its policy.

    `open_page(url, width=…, height=…, color_scheme=…, expected=("text of an error", …))`.
    """
    complaints: list[str] = []
    contexts = []

    def open_(url, *, width=1280, height=860, expected=(), **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)

        def note(text):
            if not any(part in text for part in expected):
                complaints.append(text)

        page.on("console", lambda said: said.type == "error" and note(said.text))
        page.on("pageerror", lambda err: note(str(err)))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " console.error('policy', event.violatedDirective, event.blockedURI))"
        )
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def gallery() -> Path:
    """The drawings that lie in the package."""
    import perception_encoder

    return Path(perception_encoder.__file__).parent / "data" / "gallery"


PLACES = {"Munich": (48.137, 11.575), "Lisbon": (38.722, -9.139), "Suva": (-18.14, 178.44)}


def photo_metadata(number: int) -> dict[str, MetadataValue]:
    """What a camera would have written: days with four photos each, in every third month."""
    day = datetime.datetime(2019 + number // 48, 1 + number // 12 % 4 * 3, 3 + number % 12 // 4)
    found: dict[str, MetadataValue] = {"camera": ("Canon EOS R5", "Apple iPhone 13")[number % 2]}
    if number % 10 != 9:
        found["taken_at"] = day + datetime.timedelta(hours=9, minutes=number)
        found["taken_offset"] = 60
    if number % 4 != 3:
        place = list(PLACES)[number % 4]
        latitude, longitude = PLACES[place]
        found |= {"place": place, "latitude": latitude + number / 5000, "longitude": longitude}
    if number % 20 == 0:
        found |= {"title": f"Title {number}", "exposure_time": 0.004, "f_number": 2.8, "iso": 200}
    return found


@pytest.fixture(scope="session")
def drawings(tmp_path_factory, gallery) -> Path:
    """A folder of 120 drawings of the gallery, some of them twice, with two indexes of them."""
    folder = tmp_path_factory.mktemp("drawings")
    files = sorted(gallery.glob("*.webp"))[:120]
    images = folder / "images"
    copies = images / "copies"
    copies.mkdir(parents=True)
    for file in files:
        shutil.copy(file, images)
    shutil.copy(images / "cat.webp", copies / "cat (copy).webp")
    with Image.open(images / "castle.webp") as castle:
        castle.convert("RGB").save(copies / "castle-again.png")
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    with AutoModel.from_pretrained("pe-nano") as model:
        make_index(folder / "drawings.lance", model, paths, photo_metadata)
        make_index(folder / "few.lance", model, paths[:5])
    return folder


@pytest.fixture(scope="module")
def drawings_server(tmp_path_factory, drawings):
    """A server over copies of those indexes, with the bundled model."""
    folder = tmp_path_factory.mktemp("served")
    names = ("drawings.lance", "few.lance")
    indexes = tuple(str(shutil.copytree(drawings / name, folder / name)) for name in names)
    settings = ServerSettings(indexes=indexes, cache_folder=drawings / "thumbnails")
    with keeping_prompts(), running(settings, open_model=AutoModel.from_pretrained) as server:
        wait_for_cutoffs(server)
        yield server
