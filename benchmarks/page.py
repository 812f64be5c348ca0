"""How quickly does the server's page open, search and scroll over 100,000 images?

An index of pe-nano's vectors of the bundled drawings with noise, each row a file of its own; a real
server; Chromium without a GPU on the same cores. Needs chromium and Playwright.

    python -m benchmarks.page --folder /tmp/page-benchmark
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.report import write_report
from benchmarks.serving import free_port, running
from perception_encoder import AutoModel
from perception_encoder.index import Index, Row

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
NUM_ROWS = 100_000
BLOCK_ROWS = 10_000
WORDS = ("red heart", "a cat", "blue car", "red heart")
FIRST_ROWS = "#results:not(.is-stale) .tile"
SCROLL = """(ms) => new Promise((done) => {
  const times = []; let last = performance.now(); const end = last + ms;
  const step = (now) => {
    times.push(now - last); last = now; window.scrollBy(0, 60);
    if (now < end) requestAnimationFrame(step);
    else done({ times: times.slice(1), elements: document.querySelectorAll("*").length });
  };
  requestAnimationFrame(step);
})"""


def main() -> None:
    """Fill the index, serve it, use the page and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="Made, and deleted at the end.")
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    fill(folder)
    port = free_port()
    command = [sys.executable, "-m", "perception_encoder.cli", "serve", "--port", str(port)]
    command += ["--index", str(folder / "many.lance"), "--thumbnails", str(folder / "thumbnails")]
    with running(command, port, "/readiness", dict(os.environ)), sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        figures = used(page, f"http://127.0.0.1:{port}/")
        version = browser.version
        browser.close()
    print(json.dumps(figures, indent=1))
    question = "the page over 100,000 images: seconds until rows stand, ms of frames"
    figures = {"rows": NUM_ROWS, "chromium": version, **figures}
    print(write_report("page", question, ["fastapi", "pylance", "playwright"], figures))
    shutil.rmtree(folder)


def fill(folder: Path) -> None:
    """Make an index whose rows are all files that can be shown."""
    drawings = sorted(GALLERY.glob("*.webp"))
    (folder / "images").mkdir(parents=True)
    originals = [Path(shutil.copy(path, folder)) for path in drawings]
    sizes = [Image.open(path).size for path in drawings]
    random = np.random.default_rng(0)
    with AutoModel.from_pretrained("pe-nano") as model:
        vectors, identity = model.embed_images(drawings), model.identity
    index = Index.create(folder / "many.lance", identity)
    for start in range(0, NUM_ROWS, BLOCK_ROWS):
        chosen = np.arange(start, start + BLOCK_ROWS) % len(drawings)
        rows = []
        for number, drawing in enumerate(chosen.tolist(), start):
            path = folder / "images" / f"{drawings[drawing].stem}-{number}.webp"
            os.link(originals[drawing], path)
            status, (width, height) = path.stat(), sizes[drawing]
            rows.append(
                Row(
                    str(path),
                    width=width,
                    height=height,
                    bytes=status.st_size,
                    mtime=status.st_mtime_ns,
                )
            )
        noise = random.standard_normal((BLOCK_ROWS, vectors.shape[1])) / vectors.shape[1] ** 0.5
        noisy = vectors[chosen] + 0.3 * noise
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        index.append(rows, noisy.astype(np.float32))
    index.optimize()


def used(page: Page, address: str) -> dict[str, Any]:
    """Open twice, search, scroll down, and over the same rows again."""
    opened = []
    for _ in range(2):
        began = time.perf_counter()
        page.goto(address)
        page.locator(FIRST_ROWS).first.wait_for()
        rows = time.perf_counter() - began
        page.locator(".tile img.is-drawn").first.wait_for()
        opened.append({"rows": rows, "first_image": time.perf_counter() - began})
    searched = []
    for words in WORDS:
        field = page.get_by_label("Words to search for")
        began = time.perf_counter()
        field.fill(words)
        with page.expect_response("**/v1/search"):
            field.press("Enter")
        page.locator(FIRST_ROWS).first.wait_for()
        searched.append(time.perf_counter() - began)
    page.wait_for_timeout(1000)
    down = frames(page, 6000)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1000)
    return {
        "opened": opened,
        "searched": searched,
        "scrolled": down,
        "scrolled_again": frames(page, 4000),
    }


def frames(page: Page, milliseconds: int) -> dict[str, Any]:
    """Scroll 60 pixels a frame; what frames took, ms."""
    found = page.evaluate(SCROLL, milliseconds)
    p50, p95, p99 = np.quantile(found["times"], [0.5, 0.95, 0.99]).tolist()
    longest = max(found["times"])
    return {"p50": p50, "p95": p95, "p99": p99, "max": longest, "elements": found["elements"]}


if __name__ == "__main__":
    main()
