"""Makes the images of docs/guides/clusters-and-maps.md from the bundled gallery.

PYTHONPATH=.:tests python -m analysis.map_images    # needs chromium
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from perception_encoder.cli.main import app

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "docs" / "images"
GALLERY = ROOT / "src" / "perception_encoder" / "data" / "gallery"
GUIDE = ROOT / "docs" / "guides" / "clusters-and-maps.md"
WIDTH = 1200


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        shutil.copytree(GALLERY, "drawings", ignore=shutil.ignore_patterns("*.md"))
        Path("words.txt").write_text(words_of_the_guide(), encoding="utf-8")
        pe("index", "drawings", "--index", "drawings.lance")
        about = ("--index", "drawings.lance", "--names", "words.txt")
        pe("cluster", *about, "--sheet", "clusters.png")
        pe("map", "map.png", *about)
        pe("map", "map.html", *about)
        take_page(Path("map.html").absolute())
        for name in ("clusters", "map"):
            with Image.open(f"{name}.png") as image:
                shown = first_clusters(image.convert("RGB")) if name == "clusters" else image
                shown.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
                shown.save(OUT / f"{name}.webp", quality=85)


def first_clusters(sheet: Image.Image, count: int = 3) -> Image.Image:
    """The sheet down to the line below its first clusters."""
    pixels = np.asarray(sheet.crop((sheet.width // 10, 0, sheet.width * 9 // 10, sheet.height)))
    is_line = (pixels == pixels[:, :1]).all(axis=(1, 2)) & (pixels[:, 0] < 255).all(axis=1)
    lines = np.flatnonzero(is_line & ~np.roll(is_line, 1))
    return sheet.crop((0, 0, sheet.width, int(lines[count - 1])))


def words_of_the_guide() -> str:
    """The words that the guide shows, one a line."""
    shown = GUIDE.read_text(encoding="utf-8").split("```text\n", 1)[1].split("```", 1)[0]
    return "\n".join(word.strip() for word in shown.replace("\n", ",").split(","))


def pe(*arguments: str) -> None:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    print(done.output)  # noqa: T201
    assert done.exit_code == 0


def take_page(file: Path) -> None:
    with sync_playwright() as playwright:
        program = os.environ.get("PE_CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="dark")
        page.goto(file.as_uri())
        page.wait_for_function("sheets.every((sheet) => sheet.complete) && !waiting")
        page.mouse.move(560, 400)
        page.mouse.wheel(0, -420)
        page.mouse.move(520, 380)
        page.locator("#large").wait_for(state="visible")
        page.screenshot(path="page.png")
        browser.close()
    with Image.open("page.png") as image:
        image.save(OUT / "map-page.webp", quality=85)


if __name__ == "__main__":
    main()
