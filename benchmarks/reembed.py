"""What does `pe index --reembed` cost, compared with indexing the sources anew?

Drawings of the gallery are pasted into JPEG files of different content. In one process, for
pe-nano with another preprocessing and for PE-Core-T16-384 with random weights: a new index is
filled from the folder by the new model, and an index of pe-nano is changed to it. Each is done
several times, in turns, and the median is taken. The swap is also measured alone.

    python -m benchmarks.reembed --folder /tmp/reembed-benchmark
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import write_report
from perception_encoder import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index
from perception_encoder.indexing import Reembedding, Run
from perception_encoder.sources import SourceOptions, open_sources

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
ROUNDS = 3
SIZE = (640, 480)


def main() -> None:
    """Make the files, measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="Made, and deleted at the end.")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--files-of-t16", type=int, default=60)
    arguments = parser.parse_args()
    folder = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    before = AutoModel.from_pretrained("pe-nano")
    fast = AutoModel.from_pretrained("pe-nano", preprocess="fast")
    t16 = AutoModel.from_pretrained("PE-Core-T16-384", random_weights=True)
    figures = {
        "pe_nano_fast": measure(folder / "nano", arguments.files, before, fast),
        "pe_core_t16_384": measure(folder / "t16", arguments.files_of_t16, before, t16),
    }
    path = write_report(
        "reembed",
        "pe index --reembed against indexing the same files anew",
        ["torch", "openvino", "pylance", "pyarrow", "pillow"],
        {"rounds": ROUNDS, "image_size": SIZE, **figures},
        note="Other programs were running on the machine; compare the figures with each other.",
    )
    print(path.read_text(encoding="utf-8"))
    shutil.rmtree(folder)


def measure(
    folder: Path, num_files: int, before: EmbeddingModel, after: EmbeddingModel
) -> dict[str, Any]:
    """Return the medians of both ways, in seconds, and how they compare."""
    images = folder / "images"
    make(images, num_files)
    fill(folder / "before.lance", images, before)
    fill(folder / "warm.lance", images, after)  # graphs are made, files are cached
    anew, changed, swaps = [], [], []
    for number in range(ROUNDS):
        anew.append(fill(folder / f"anew{number}.lance", images, after))
        copy = shutil.copytree(folder / "before.lance", folder / f"changed{number}.lance")
        seconds, swap = reembed(copy, after)
        changed.append(seconds)
        swaps.append(swap)
    medians = {
        "seconds_anew": statistics.median(anew),
        "seconds_reembed": statistics.median(changed),
        "seconds_swap": statistics.median(swaps),
    }
    return {
        "files": num_files,
        **medians,
        "reembed_against_anew": medians["seconds_reembed"] / medians["seconds_anew"],
        "all_anew": anew,
        "all_reembed": changed,
    }


def fill(path: Path, images: Path, model: EmbeddingModel) -> float:
    """Index a folder, and return the seconds."""
    started = time.perf_counter()
    index = Index.create(path, model.identity)
    run = Run(model, index, open_sources([str(images)], SourceOptions()))
    assert all(outcome.status == "embedded" for outcome in run.outcomes())
    return time.perf_counter() - started


def reembed(path: Path, model: EmbeddingModel) -> tuple[float, float]:
    """Change the model of an index, and return the seconds, and those after the last image."""
    started = last = time.perf_counter()
    for outcome in Reembedding(Index.open(path), model).outcomes():
        assert outcome.status == "embedded"
        last = time.perf_counter()
    ended = time.perf_counter()
    assert Index.open(path).identity == model.identity
    return ended - started, ended - last


def make(folder: Path, count: int) -> None:
    """Write JPEG files; each number gives its own image."""
    folder.mkdir(parents=True)
    drawings = [Image.open(path).convert("RGB") for path in sorted(GALLERY.glob("*.webp"))]
    for number in range(count):
        random = np.random.default_rng(number)
        canvas = Image.new("RGB", SIZE, tuple(random.integers(128, 256, 3).tolist()))
        for _ in range(3):
            side = int(random.integers(120, 320))
            drawing = drawings[int(random.integers(len(drawings)))].resize((side, side))
            place = random.integers(0, (SIZE[0] - side, SIZE[1] - side))
            canvas.paste(drawing, (int(place[0]), int(place[1])))
        canvas.save(folder / f"{number}.jpg", quality=90)


if __name__ == "__main__":
    main()
