"""Render all training and evaluation drawings of pe-nano.

    python -m training.pe_nano.prepare --packages NODE_MODULES --openclipart DIR --out DIR

Writes train_images.npy, train_items.jsonl, eval_images.npy, eval_items.jsonl, concepts.json,
stats.json and licenses.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.pe_nano import openclipart
from training.pe_nano.concepts import Vocabulary
from training.pe_nano.icons import icon_drawings, sample_others
from training.pe_nano.restyle import variants
from training.pe_nano.sources import (
    EMOJI_SETS,
    FLAG_SETS,
    HELD_OUT,
    ICON_SETS,
    MONOCHROME,
    Drawing,
    Sources,
    licenses,
)  # fmt: skip

SIZE = 72
ALL_STYLES = ("v0", "v1", "v2", "v3")
logger = logging.getLogger(__name__)


def styles_of(drawing: Drawing) -> tuple[str, ...]:
    """The variants to make of a drawing."""
    if drawing.source in MONOCHROME or drawing.source == HELD_OUT:
        return ("v0",)
    return ("v0", "v1") if drawing.source == "openclipart" else ALL_STYLES


def render_drawing(drawing: Drawing) -> tuple[Drawing, dict[str, np.ndarray]]:
    """All variants of a drawing; none where it cannot be parsed or drawn."""
    contour = drawing.source == "fluent-emoji" or (
        drawing.concept is not None and drawing.name.startswith("flag of ")
    )
    zoom = 1.5 if drawing.concept is not None and drawing.source != "openclipart" else 1e6
    wanted, seed = styles_of(drawing), f"{drawing.source}/{drawing.key}"
    try:
        return drawing, variants(drawing.svg, SIZE, drawing.aspect, seed, wanted, zoom, contour)
    except Exception:  # a broken file of thousands must not end the run
        logger.debug("cannot draw %s", seed, exc_info=True)
        return drawing, {}


class ImageWriter:
    """Appends images to a raw file and turns it into one .npy array at the end."""

    def __init__(self, out: Path, stem: str) -> None:
        self.npy, self.raw, self.count = out / f"{stem}_images.npy", out / f"{stem}.raw", 0
        self.items = (out / f"{stem}_items.jsonl").open("w", encoding="utf-8")
        self.stream = self.raw.open("wb")

    def add(self, image: np.ndarray, item: dict[str, object]) -> None:
        """Append one image and its line."""
        self.stream.write(np.ascontiguousarray(image, np.uint8).tobytes())
        self.items.write(json.dumps({"row": self.count, **item}) + "\n")
        self.count += 1

    def close(self) -> None:
        """Write the array."""
        self.stream.close()
        self.items.close()
        shape = (self.count, SIZE, SIZE, 4)
        np.save(self.npy, np.memmap(self.raw, np.uint8, "r", shape=shape))
        self.raw.unlink()


def training_drawings(sources: Sources, clip_art: Path) -> Iterator[Drawing]:
    """Everything that is trained on."""
    for name in EMOJI_SETS:
        yield from sources.emoji(name)
    for name in FLAG_SETS:
        yield from sources.flags(name)
    words = openclipart.known_words(clip_art, sources.vocabulary)
    icons = [d for name in ICON_SETS for d in icon_drawings(sources, name, words)]
    yield from sample_others(icons)
    yield from openclipart.drawings(clip_art, sources.vocabulary, words)


def write_training(pool: Pool, drawings: Iterable[Drawing], out: Path) -> dict[str, Any]:
    """Render the training drawings; returns the counts."""
    writer, rows, per_concept = ImageWriter(out, "train"), Counter(), defaultdict(set)
    failed, used = Counter(), Counter()
    for drawing, images in pool.imap(render_drawing, drawings, chunksize=16):
        failed[drawing.source] += not images
        used[drawing.source] += bool(images)
        index = drawing.concept.index if drawing.concept else -1
        for variant, image in images.items():
            item = {"source": drawing.source, "variant": variant, "concept": index,
                    "name": drawing.name, "key": drawing.key}  # fmt: skip
            if drawing.source == "openclipart":
                item["keywords"] = list(drawing.keywords)
            writer.add(image, item)
            rows[f"{drawing.source}/{variant}"] += 1
        if images and index >= 0:
            per_concept[index].add((drawing.source, drawing.key))
        if sum(used.values()) % 1000 == 0:
            logger.info("%d drawings, %d images", sum(used.values()), writer.count)
    writer.close()
    return {
        "train_rows": writer.count,
        "drawings_per_source": used,
        "not_drawn_per_source": +failed,
        "rows_per_source_and_variant": rows,
        "drawings_per_concept": {i: len(s) for i, s in per_concept.items()},
    }


def write_evaluation(pool: Pool, sources: Sources, trained: set[int], out: Path) -> int:
    """Render the held-out drawings of the trained concepts; returns how many."""
    writer = ImageWriter(out, "eval")
    held_out = (d for d in sources.emoji(HELD_OUT) if d.concept and d.concept.index in trained)
    for drawing, images in pool.imap(render_drawing, held_out, chunksize=16):
        if "v0" in images:
            item = {"concept": drawing.concept.index, "name": drawing.name, "key": drawing.key}
            writer.add(images["v0"], item)
    writer.close()
    return writer.count


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_licenses(packages: Path, out: Path) -> None:
    """The licenses of everything that was read."""
    stated = licenses(packages, (*EMOJI_SETS, *FLAG_SETS, *ICON_SETS, HELD_OUT))
    emojibase = json.loads((packages / "emojibase-data" / "package.json").read_text("utf-8"))
    stated["emojibase-data"] = {
        "package": "emojibase-data", "version": emojibase["version"],
        "license": emojibase["license"], "author": "Miles Johnson",
        "url": "https://github.com/milesj/emojibase",
    }  # fmt: skip
    stated["openclipart"] = {
        "package": "openclipart-svg (Debian)", "version": "1:0.18+dfsg-19",
        "license": "public domain dedication", "author": "the artists named in each file",
        "url": "http://www.openclipart.org",
    }  # fmt: skip
    _dump(out / "licenses.json", stated)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="node_modules folder")
    parser.add_argument("--openclipart", type=Path, required=True, help="unpacked package")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary(args.packages / "emojibase-data")
    sources = Sources(args.packages, vocabulary)
    _dump(args.out / "concepts.json", [c.as_json() for c in vocabulary.concepts])
    write_licenses(args.packages, args.out)
    with multiprocessing.Pool(args.workers) as pool:
        stats = write_training(pool, training_drawings(sources, args.openclipart), args.out)
        per_concept = stats.pop("drawings_per_concept")
        stats["eval_rows"] = write_evaluation(pool, sources, set(per_concept), args.out)
    stats["concepts"] = len(vocabulary.concepts)
    stats["concepts_with_drawings"] = len(per_concept)
    stats["concepts_by_number_of_drawings"] = dict(sorted(Counter(per_concept.values()).items()))
    _dump(args.out / "stats.json", stats)
    logger.info("wrote %s: %d training rows", args.out, stats["train_rows"])


if __name__ == "__main__":
    main()
