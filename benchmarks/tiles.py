"""Do tiles find small things, and what do they cost?

Scenes of 960 × 720 pixels hold drawings of the bundled gallery on a plain ground of a soft color,
each at a random place without touching another: 4 drawings of 190 pixels, or 6 of 140. Each drawing
of one thing is asked for by its name; the scenes that hold it are the right answers.

Compared: whole images alone; 2x2, 3x3 and 4x4 tiles; the same with tiles that overlap their
neighbors by a quarter of their width. An image's score is the best of its rows. Recall at k is the
share of the right scenes among the first k. Time and rows are those of `pe index`.

    python -m benchmarks.tiles [--scenes 200]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import write_report
from perception_encoder import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index
from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.index.tiles import Box, TileGrid
from perception_encoder.indexing import Run, RunOptions
from perception_encoder.preprocess import crop_image
from perception_encoder.sources import SourceOptions, open_sources

SIZE: Final = (960, 720)
LAYOUTS: Final = {"4 drawings of 190 px": (4, 190), "6 drawings of 140 px": (6, 140)}
GRIDS: Final = (None, TileGrid(2, 2), TileGrid(3, 3), TileGrid(4, 4))
OVERLAP: Final = 0.25
DEPTHS: Final = (1, 5, 10, 20)
SEED: Final = 7


def main() -> None:
    """Compose scenes, index and search them in every way, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--model", default="pe-nano")
    parser.add_argument("--note", default="", help="What else the machine was doing.")
    arguments = parser.parse_args()
    model = AutoModel.from_pretrained(arguments.model)
    figures: dict[str, Any] = {
        "model": arguments.model,
        "scenes": arguments.scenes,
        "size": list(SIZE),
        "overlap": OVERLAP,
        "layouts": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (count, side) in LAYOUTS.items():
            place = Path(folder) / str(side)
            shown = compose(place / "in", arguments.scenes, count, side)
            figures["layouts"][name] = measure(model, place, shown)
            print(name, json.dumps(figures["layouts"][name], indent=1), flush=True)
    write_report(
        "tiles",
        "recall of small drawings in scenes, and the cost of tiles",
        ["pylance", "numpy", "pillow", "openvino", "torch"],
        figures,
        arguments.note,
    )


def read_things() -> list[str]:
    """Return the drawings of one thing each."""
    gallery = files("perception_encoder").joinpath("data/gallery")
    stems = [one.name.removesuffix(".webp") for one in gallery.iterdir()]
    joined = ("-next-to-", "-left-of-", "-above-")
    return sorted(s for s in stems if "." not in s and not any(word in s for word in joined))


def compose(folder: Path, num_scenes: int, count: int, side: int) -> list[list[str]]:
    """Write scenes; return the drawings in each."""
    folder.mkdir(parents=True)
    random, things = np.random.default_rng(SEED), read_things()
    shown = []
    with as_file(files("perception_encoder").joinpath("data/gallery")) as gallery:
        for number in range(num_scenes):
            ground = tuple(int(level) for level in random.integers(200, 256, 3))
            scene = Image.new("RGB", SIZE, ground)
            chosen = [things[at] for at in random.choice(len(things), count, replace=False)]
            taken: list[Box] = []
            for thing in chosen:
                taken.append(find_place(random, side, taken))
                with Image.open(gallery / f"{thing}.webp") as drawing:
                    small = drawing.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
                scene.paste(cut_out(small), taken[-1][:2], cut_out(small))
            scene.save(folder / f"{number:04}.png")
            shown.append(chosen)
    return shown


def find_place(random: np.random.Generator, side: int, taken: Sequence[Box]) -> Box:
    """Return a square that touches none of the others."""
    while True:
        x, y = (int(random.integers(0, full - side)) for full in SIZE)
        if all(abs(x - one.x) >= side or abs(y - one.y) >= side for one in taken):
            return Box(x, y, side, side)


def cut_out(drawing: Image.Image) -> Image.Image:
    """Return a drawing whose white ground is transparent."""
    pixels = np.array(drawing)
    pixels[(pixels[..., :3] > 250).all(axis=-1), 3] = 0
    return Image.fromarray(pixels)


def measure(model: EmbeddingModel, folder: Path, shown: list[list[str]]) -> dict[str, Any]:
    """Return recall, rows and seconds of each way."""
    things = sorted({thing for scene in shown for thing in scene})
    queries = model.embed_text([f"a {thing.replace('-', ' ')}" for thing in things])
    is_right = np.array([[thing in scene for scene in shown] for thing in things])
    figures: dict[str, Any] = {"queries": len(things)}
    for grid in GRIDS:
        started = time.perf_counter()
        index = Index.open_or_prepare(str(folder / f"{grid}.lance"), model.identity)
        sources = open_sources([str(folder / "in")], SourceOptions())
        for _ in Run(model, index, sources, RunOptions(tiles=grid)).outcomes():
            pass
        seconds = time.perf_counter() - started
        scores = scores_of(index, queries, len(shown))
        figures[f"{grid or 'whole image'}"] = {
            "rows": index.count() * (1 + (grid.count if grid else 0)),
            "seconds": round(seconds, 1),
            "recall": recall(scores, is_right),
        }
        if grid is not None:
            more = overlapping_scores(model, folder / "in", queries, grid, len(shown))
            whole = scores_of(index, queries, len(shown), tiles=False)
            figures[f"{grid} overlapping"] = {"recall": recall(np.maximum(whole, more), is_right)}
        print(grid, figures[f"{grid or 'whole image'}"], flush=True)
    return figures


def scores_of(
    index: Index, queries: NDArray[np.float32], num_scenes: int, *, tiles: bool = True
) -> NDArray[np.float32]:
    """Return (Q, N) the score of each scene: the best of its rows."""
    scores = np.full((len(queries), num_scenes), -1.0, np.float32)
    for batch in index.scan(["uri", VECTOR], tiles=tiles):
        found = queries @ vectors_of(batch).T
        for uri, column in zip(batch["uri"].to_pylist(), found.T, strict=True):
            place = int(Path(uri).stem)
            scores[:, place] = np.maximum(scores[:, place], column)
    return scores


def overlapping_scores(
    model: EmbeddingModel,
    folder: Path,
    queries: NDArray[np.float32],
    grid: TileGrid,
    num_scenes: int,
) -> NDArray[np.float32]:
    """Return (Q, N) the best score of tiles that overlap their neighbors."""
    boxes = overlapping(grid)
    columns = []
    for number in range(num_scenes):
        with Image.open(folder / f"{number:04}.png") as scene:
            parts = [crop_image(scene.convert("RGB"), tuple(box)) for box in boxes]
        columns.append((queries @ model.embed_images(parts, show_progress=False).T).max(axis=1))
    return np.stack(columns, axis=1)


def overlapping(grid: TileGrid) -> list[Box]:
    """Return as many tiles as a grid has, each larger, so that neighbors share a quarter."""
    sides = []
    for full, count in zip(SIZE, (grid.columns, grid.rows), strict=True):
        length = full / (count - OVERLAP * (count - 1))
        starts = [round(place * (full - length) / max(1, count - 1)) for place in range(count)]
        sides.append([(start, round(length)) for start in starts])
    return [Box(x, y, width, height) for y, height in sides[1] for x, width in sides[0]]


def recall(scores: NDArray[np.float32], is_right: NDArray[np.bool_]) -> dict[str, float]:
    """Return the share of the right scenes among the first k, over all queries."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(is_right, order, axis=1)
    most = is_right.sum(axis=1)
    return {
        f"@{k}": round(float((ranked[:, :k].sum(axis=1) / np.minimum(most, k)).mean()), 3)
        for k in DEPTHS
    }


if __name__ == "__main__":
    main()
