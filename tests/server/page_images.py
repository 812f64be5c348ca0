"""Takes the screenshots of docs/guides/page.md: the page over the bundled gallery, in Chromium.

PYTHONPATH=.:tests python -m server.page_images    # needs chromium
"""

import datetime
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from playwright.sync_api import Browser, Page, sync_playwright
from server.pages import expect_search
from server.serving import running
from video_clips import write_clip

from perception_encoder import AutoModel
from perception_encoder.server import ServerSettings

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "docs" / "images"
GALLERY = ROOT / "src" / "perception_encoder" / "data" / "gallery"
PLACES = (
    (48.1, 11.6), (48.1, 11.6), (52.5, 13.4), (48.9, 2.4), (38.7, -9.1), (41.9, 12.5),
    (40.7, -74.0), (37.8, -122.4), (35.7, 139.7), (-33.9, 151.2), (-33.9, 18.4), (-22.9, -43.2),
)  # fmt: skip
COPIES = {"airplane": 0.7, "alarm-clock": 1.4, "bee": 0.8, "castle": 0.6}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).with_name("pictures")  # the screenshots show paths
        work.symlink_to(temporary)
        try:
            take_all_of(work)
        finally:
            work.unlink()


def take_all_of(work: Path) -> None:
    folder = work / "drawings"
    shutil.copytree(GALLERY, folder, ignore=shutil.ignore_patterns("*.md", "*.json"))
    for name, scale in COPIES.items():
        with Image.open(folder / f"{name}.webp") as image:
            side = round(image.width * scale)
            image.convert("RGB").resize((side, side)).save(folder / f"{name} (copy).jpg")
    index = f"{work}/drawings.lance"
    command = [sys.executable, "-m", "perception_encoder.cli", "index", str(folder)]
    subprocess.run([*command, "--index", index], check=True)
    photos = f"{work}/photos.lance"
    save_photos(work / "photos")
    subprocess.run([*command[:-1], str(work / "photos"), "--index", photos], check=True)
    videos = f"{work}/videos.lance"
    (work / "videos").mkdir()
    scenes = ("rose", "airplane", "bee", "banana", "bus", "elephant", "castle", "rose")
    write_clip(work / "videos" / "holiday.mp4", scenes, 3.0, size=(1280, 720))
    subprocess.run([*command[:-1], str(work / "videos"), "--index", videos], check=True)
    settings = ServerSettings(indexes=(index, photos, videos), cache_folder=work / "thumbnails")
    with running(settings, open_model=AutoModel.from_pretrained) as server:
        take_all(server.url)


def save_photos(folder: Path) -> None:
    """Write copies of drawings with the date and the place that a camera would have written."""
    folder.mkdir()
    random = Random(5)
    day = datetime.datetime(2026, 10, 18)
    drawings = sorted(GALLERY.glob("*.webp"))
    random.shuffle(drawings)
    while drawings:
        latitude, longitude = random.choice(PLACES)
        for number in range(min(len(drawings), random.choice([1, 2, 3, 5, 9, 14]))):
            taken = day + datetime.timedelta(hours=9 + number % 9, minutes=random.randrange(60))
            drawing = drawings.pop()
            exif = Image.Exif()
            exif[Base.Make], exif[Base.Model] = "Canon", "Canon EOS R5"
            details = exif.get_ifd(IFD.Exif)
            details[Base.DateTimeOriginal] = f"{taken:%Y:%m:%d %H:%M:%S}"
            details[Base.ExposureTime], details[Base.FNumber] = 0.004, 2.8
            details[Base.ISOSpeedRatings] = 200
            place = exif.get_ifd(IFD.GPSInfo)
            for (name, side), degrees in {
                (GPS.GPSLatitude, "NS"): latitude + random.gauss(0, 0.3),
                (GPS.GPSLongitude, "EW"): longitude + random.gauss(0, 0.3),
            }.items():
                place[name] = (abs(degrees), 0.0, 0.0)
                place[name - 1] = side[degrees < 0]
            with Image.open(drawing) as image:
                image.convert("RGB").save(folder / drawing.name, exif=exif)
        day -= datetime.timedelta(days=random.choice([1, 1, 2, 6, 20, 40]))


def take_all(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = opened(browser, f"{url}/?q=red+heart")
        page.locator(".tile .mark").first.wait_for()
        take(page, "search")
        page = opened(browser, f"{url}/?q=red")
        page.locator(".tile .mark").first.wait_for()
        for name, key in (("red-heart", "+"), ("rose-next", "+"), ("red-car", "-")):
            named = page.locator(".tile").filter(has=page.locator(".name", has_text=name))
            with expect_search(page):
                named.first.locator("a").press(key)
            page.locator("#results:not(.is-stale) .tile").first.wait_for()
        page.get_by_label("Label of the liked images").fill("red heart")
        take(page, "marks")
        page = opened(browser, f"{url}/?q=red+heart")
        page.locator(".tile a").first.click()
        take(page, "viewer")
        page.get_by_role("link", name="Classify", exact=True).last.click()
        page.get_by_label("Labels").fill("red heart, a heart, love, teapot, an animal")
        page.locator(".bars .mark.strong").first.wait_for()
        take(page, "classify")
        page = opened(browser, f"{url}/?sort=-taken&index=photos")
        page.locator(".tile img.is-drawn").first.wait_for()
        take(page, "timeline")
        page = opened(browser, f"{url}/?q=a+bee&index=videos")
        page.locator(".tile a").first.click()
        page.locator(".moments img").last.wait_for()
        page.evaluate(
            "() => { const video = document.querySelector('video');"
            " video.pause(); video.currentTime = 7.5; }"
        )
        take(page, "video")
        page = opened(browser, f"{url}/?view=places&index=photos")
        page.locator(".marker").first.wait_for()
        take(page, "places")
        page = opened(browser, f"{url}/?view=clusters")
        page.locator(".cluster").first.wait_for(timeout=60_000)
        page.get_by_role("heading", name="Cluster 1", exact=True).wait_for(
            state="hidden", timeout=60_000
        )
        take(page, "clusters")
        page = opened(browser, f"{url}/?view=map")
        page.locator("canvas").wait_for(timeout=60_000)
        take(page, "map")
        page = opened(browser, f"{url}/?view=duplicates&tier=near")
        page.locator(".group").first.wait_for(timeout=60_000)
        take(page, "duplicates")
        page = opened(browser, f"{url}/?q=an+animal&not=brown", dark=True)
        page.locator(".tile .mark").first.wait_for()
        take(page, "dark")
        page = opened(browser, f"{url}/?q=a+green+animal", width=390, height=780)
        page.locator(".tile .mark").first.wait_for()
        take(page, "phone")
        browser.close()


def opened(
    browser: Browser, url: str, *, dark: bool = False, width: int = 1180, height: int = 780
) -> Page:
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page.goto(url)
    return page


def take(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)  # images fade in
    with Image.open(io.BytesIO(page.screenshot())) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(OUT / f"page-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
