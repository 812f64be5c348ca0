"""Render the images of `pe demo` from openly licensed drawings.

    python -m training.pe_nano.gallery --packages NODE_MODULES --out FOLDER

gallery.json says what to draw: single drawings, one per thing and spread over the sets, and scenes
of two. Writes one lossless WebP of at most 256 colors for each, sources.json (which drawing of
which set is in which image) and LICENSES.md. The same packages give the same images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.pe_nano.batches import ABOVE, BELOW, LEFT, RIGHT, WHOLE
from training.pe_nano.concepts import Vocabulary
from training.pe_nano.render import render_svg
from training.pe_nano.sources import Drawing, Sources, licenses

SIZE = 160
SINGLE_SHARE = 0.94  # of the side; the rest is a margin
SCENE_SHARE = 0.98  # of the scene's box
FAINT = 40.0  # distance in RGB below which an edge does not stand out from the background
MAX_FAINT_SHARE = 0.25
BACKGROUNDS = (
    (255, 255, 255), (255, 247, 226), (224, 239, 250), (225, 243, 229), (252, 230, 233),
    (236, 230, 248), (255, 255, 255), (255, 255, 255),
)  # fmt: skip
DEEPER = ((176, 208, 238), (182, 220, 190), (246, 200, 186), (206, 196, 234))  # for pale drawings
APACHE = ("noto", "noto-v1")
MIT = ("fluent-emoji", "fluent-emoji-flat")

Rgba = NDArray[np.uint8]
Box = tuple[float, float, float, float]
logger = logging.getLogger(__name__)


class Shelf:
    """The drawings of the gallery's sets, by "set/concept name"."""

    def __init__(self, packages: Path) -> None:
        sources = Sources(packages, Vocabulary(packages / "emojibase-data"))
        self.drawings: dict[str, Drawing] = {
            f"{name}/{drawing.name}": drawing
            for name in (*APACHE, *MIT)
            for drawing in sources.emoji(name)
        }

    def paint(self, name: str, side: int) -> Rgba:
        """A drawing fitted to a square of `side` pixels, on nothing."""
        drawing = self.drawings[name]
        return render_svg(drawing.svg, side, drawing.aspect)


def plan(folder: Path) -> dict[str, list[str]]:
    """Image name to its one or two drawings, as gallery.json lists them."""
    wanted = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    images: dict[str, list[str]] = {}
    for source, entries in wanted["drawings"].items():
        for entry in entries:
            stem, _, concept = entry.partition("=")
            images[stem] = [f"{source}/{concept or stem.replace('-', ' ')}"]
    images.update(wanted["scenes"])
    return images


def boxes_of(stem: str, num_drawings: int) -> tuple[Box, ...]:
    """Where the drawings of an image stand, as fractions: left, top, width, height."""
    if num_drawings == 1:
        return (WHOLE,)
    return (ABOVE, BELOW) if "-above-" in stem else (LEFT, RIGHT)


def put(canvas: Rgba, layer: Rgba, box: Box) -> None:
    """Lay a square layer over the middle of a box of the canvas, in place."""
    side = layer.shape[0]
    left = round(canvas.shape[1] * (box[0] + box[2] / 2) - side / 2)
    top = round(canvas.shape[0] * (box[1] + box[3] / 2) - side / 2)
    under = Image.fromarray(canvas)
    under.alpha_composite(Image.fromarray(layer), (left, top))
    canvas[:] = np.asarray(under)


def faint_share(image: Rgba, color: tuple[int, int, int]) -> float:
    """The share of a drawing's outline that hardly differs from a background color."""
    solid = (image[..., 3] > 200).astype(np.uint8)
    edge = (solid - cv2.erode(solid, np.ones((5, 5), np.uint8))).astype(bool)
    distance = np.linalg.norm(image[edge][:, :3].astype(float) - color, axis=1)
    return float((distance < FAINT).mean())


def background_of(stem: str, image: Rgba) -> tuple[int, int, int]:
    """A soft color that differs from image to image and lets the drawing be seen."""
    start = hashlib.sha256(stem.encode()).digest()[0] % len(BACKGROUNDS)
    candidates = [*BACKGROUNDS[start:], *BACKGROUNDS[:start], *DEEPER[start % len(DEEPER) :]]
    shares = [faint_share(image, color) for color in candidates]
    for color, share in zip(candidates, shares, strict=True):
        if share <= MAX_FAINT_SHARE:
            return color
    return candidates[int(np.argmin(shares))]


def compose(shelf: Shelf, stem: str, names: list[str]) -> Image.Image:
    """One image of the gallery."""
    canvas = np.zeros((SIZE, SIZE, 4), np.uint8)
    share = SINGLE_SHARE if len(names) == 1 else SCENE_SHARE
    for name, box in zip(names, boxes_of(stem, len(names)), strict=True):
        side = round(SIZE * min(box[2], box[3]) * share)
        put(canvas, shelf.paint(name, side), box)
    image = Image.new("RGBA", (SIZE, SIZE), background_of(stem, canvas))
    image.alpha_composite(Image.fromarray(canvas))
    flat = image.convert("RGB")
    return flat.quantize(256, dither=Image.Dither.NONE).convert("RGB")


def write_notes(shelf: Shelf, packages: Path, images: dict[str, list[str]], out: Path) -> None:
    """sources.json and LICENSES.md."""
    stated = licenses(packages, (*APACHE, *MIT))
    lines = {
        f"{stem}.webp": [f"{d.source}/{d.key}" for d in map(shelf.drawings.__getitem__, names)]
        for stem, names in sorted(images.items())
    }
    listed = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in lines.items())
    sets = json.dumps(stated, indent=1, ensure_ascii=False)
    text = f'{{\n"sets": {sets},\n"images": {{\n{listed}\n}}\n}}\n'
    (out / "sources.json").write_text(text, encoding="utf-8")
    rows = [
        f"| {name} | {s['author']} | {s['license']} | {s['url']} | {s['package']} {s['version']} | "
        f"{sum(any(p.startswith(name + '/') for p in parts) for parts in lines.values())} |"
        for name, s in stated.items()
    ]
    template = Path(__file__).with_name("gallery_licenses.md").read_text(encoding="utf-8")
    note = template.replace("{rows}", "\n".join(rows)).replace("{count}", str(len(lines)))
    (out / "LICENSES.md").write_text(note, encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="node_modules folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("*.webp"):
        old.unlink()
    shelf, images = Shelf(args.packages), plan(Path(__file__).parent)
    total = 0
    for stem, names in images.items():
        path = args.out / f"{stem}.webp"
        compose(shelf, stem, names).save(path, lossless=True, quality=100, method=6)
        total += path.stat().st_size
    write_notes(shelf, args.packages, images, args.out)
    logger.info("%d images, %d bytes in %s", len(images), total, args.out)


if __name__ == "__main__":
    main()
