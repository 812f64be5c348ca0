"""What does a second model cost that reranks hits, and how much better do they become?

Cost: an index of photos by PE-Core-S16-384, reranked by PE-Core-L14-336, both with random weights
of their real shapes; once with an empty cache, and once more.

Quality needs weights that mean something: pe-nano orders drawings of OpenMoji, which it has never
seen, after a weaker first model: pe-nano's own embeddings cut to a few dimensions, or pe-nano on
images of fewer pixels. The measure is precision at 10 by kind of drawing, for queries by the name
of a kind and by a drawing, and how many of the first 10 hits of the second model alone are found.

    python -m benchmarks.rerank --packages NODE_MODULES --cache DIR --photos DIR

NODE_MODULES is what `training.pe_nano.fetch` makes; rendered drawings are kept in DIR.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.held_out import load_held_out
from benchmarks.report import write_report

FIRST_MODEL, SECOND_MODEL = "PE-Core-S16-384", "PE-Core-L14-336"
CANDIDATES = (10, 20, 50, 100, 200, 500)
DIMENSIONS = (8, 16, 32)
PIXELS = (12, 18, 24)
FEWEST = 30  # drawings of a kind
IMAGES = 5  # queries by an image of each kind
FIRST = 10
PARTS = 2  # of each photo, so that there are some tens of images


def main() -> None:
    """Measure both, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="node_modules folder")
    parser.add_argument("--cache", type=Path, required=True, help="for rendered drawings")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    args = parser.parse_args()
    quality = measure_quality(args.packages, args.cache)
    with tempfile.TemporaryDirectory() as folder:
        cost = measure_cost(args.photos, Path(folder))
    path = write_report(
        "rerank",
        "cost of a second model that reranks hits, and precision at 10 with it",
        ["pylance", "numpy", "pillow", "openvino", "torch"],
        {"cost": cost, "quality": quality},
        note="Other work used the machine's two cores meanwhile: core_seconds are the time of the "
        "process on all cores, seconds are several times those of an idle machine. Cost: random "
        "weights of the real shapes. Quality: pe-nano as second model.",
    )
    print(path)


def measure_cost(photos: Path, work: Path) -> dict:
    """Index parts of photos by the first model, and rerank them by the second."""
    from perception_encoder import AutoModel, ImageIndex

    (work / "in").mkdir()
    for path in sorted(photos.iterdir()):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        width, height = image.size
        for part in range(PARTS):
            left = part * width // PARTS
            crop = image.crop((left, 0, left + width // PARTS, height))
            crop.save(work / "in" / f"{path.stem}-{part}.jpg", quality=90)
    first = AutoModel.from_pretrained(FIRST_MODEL, random_weights=True, device="cpu")
    second = AutoModel.from_pretrained(SECOND_MODEL, random_weights=True, device="cpu")
    index = ImageIndex(work / "t.lance", model=first)
    indexing = Clock()
    report = index.add(work / "in", show_progress=False)
    indexing.stop()
    count = report.counts["embedded"]
    query = sorted((work / "in").iterdir())[0]
    index.search(query)
    second.embed_image(query)  # what is prepared once
    plain = Clock()
    usual = index.search(query, k=FIRST)
    plain.stop()
    reranked = Clock()
    index.search(query, k=FIRST, rerank=second, candidates=count, show_progress=False)
    reranked.stop()
    again = Clock()
    hits = index.search(query, k=FIRST, rerank=second, candidates=count, show_progress=False)
    again.stop()
    embedding = Clock()
    second.embed_image(query)
    embedding.stop()
    return {
        "first_model": FIRST_MODEL,
        "second_model": SECOND_MODEL,
        "backend": f"{second.backend.name} {second.backend.precision}",
        "candidates": count,
        "core_seconds": {
            "index a candidate by the first model": round(indexing.core_seconds / count, 3),
            "search": round(plain.core_seconds, 3),
            "rerank a candidate": round(
                (reranked.core_seconds - embedding.core_seconds) / count, 3
            ),
            "embed the query by the second model": round(embedding.core_seconds, 3),
            "rerank again, with the query": round(again.core_seconds, 3),
        },
        "seconds": {
            "index": round(indexing.seconds, 1),
            "search": round(plain.seconds, 3),
            "rerank": round(reranked.seconds, 1),
            "rerank again, with the query": round(again.seconds, 2),
        },
        "embeddings_known_again": hits.reranked.num_cached,
        "first_10_shared": len({one.uri for one in usual} & {one.uri for one in hits}),
    }


class Clock:
    """Time of the wall, and of this process on all cores, which a busy machine changes little."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()
        self.seconds = self.core_seconds = 0.0

    def stop(self) -> None:
        """Note the time since the start."""
        wall, cores = self._started
        self.seconds = time.perf_counter() - wall
        self.core_seconds = time.process_time() - cores


def measure_quality(packages: Path, cache: Path) -> dict:
    """Return the precision of each first model alone, and with each number of candidates."""
    from perception_encoder import AutoModel

    data = load_held_out(packages, cache, FEWEST, keep_others=True)
    with np.load(cache / "openmoji.npz") as stored:
        drawings = {name: stored[name] for name in stored.files}
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    names = [kind.replace("-", " ") for kind in data.kinds]
    firsts = {}
    for size in DIMENSIONS:
        firsts[f"{size} dimensions"] = (unit(data.embeddings[:, :size]), unit(data.texts[:, :size]))
    for side in PIXELS:
        small = [shrink(drawings[name], side) for name in drawings]
        found = model.embed_images(small, show_progress=False)
        firsts[f"{side} pixels"] = (found, model.embed_text(names, show_progress=False))
    queries = choose_queries(data)
    asked = {
        "text": [one for one in queries if one[1] is None],
        "image": [one for one in queries if one[1] is not None],
    }
    second = {
        kind: score(data, data.embeddings, data.texts, some, 0)["precision"]
        for kind, some in asked.items()
    }
    table = {}
    for name, (images, texts) in firsts.items():
        table[name] = {}
        for kind, some in asked.items():
            table[name][kind] = {
                str(candidates or "alone"): score(data, images, texts, some, candidates)
                for candidates in (0, *CANDIDATES)
            }
        print(name, table[name], flush=True)
    return {
        "second_model": data.model,
        "drawings": len(data.numbers),
        "kinds": len(data.kinds),
        "queries": {kind: len(some) for kind, some in asked.items()},
        "second_model_precision": second,
        "first_models": table,
    }


def choose_queries(data) -> list[tuple[int, int | None]]:
    """Return the kind of each query, and its drawing; None stands for the name of the kind."""
    generator = np.random.default_rng(0)
    found: list[tuple[int, int | None]] = [(number, None) for number in range(len(data.kinds))]
    for number in range(len(data.kinds)):
        members = np.flatnonzero(data.numbers == number)
        found += [(number, int(one)) for one in generator.choice(members, IMAGES, replace=False)]
    return found


def score(data, images, texts, queries, candidates: int) -> dict[str, float]:
    """Return the mean precision at 10, and the share of the second model's own first 10."""
    precision, shared = [], []
    for number, own in queries:
        first = images @ (texts[number] if own is None else images[own])
        second = data.embeddings @ (data.texts[number] if own is None else data.embeddings[own])
        if own is not None:
            first[own] = second[own] = -np.inf
        order = np.argsort(-first)
        if candidates:
            best = order[:candidates]
            order = best[np.argsort(-second[best])]
        ideal = set(np.argsort(-second)[:FIRST].tolist())
        precision.append((data.numbers[order[:FIRST]] == number).mean())
        shared.append(len(ideal.intersection(order[:FIRST].tolist())) / FIRST)
    return {
        "precision": round(float(np.mean(precision)), 4),
        "shared": round(float(np.mean(shared)), 4),
    }


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of unit length."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def shrink(pixels: np.ndarray, side: int) -> Image.Image:
    """Return a drawing as if it had been read at fewer pixels."""
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)


if __name__ == "__main__":
    main()
