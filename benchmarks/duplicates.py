"""Which cosine tells a changed copy of an image from another image?

Photos (`../shared/photos`, or --photos) and the bundled gallery are changed as people's copies are:
JPEG at quality 30 to 95, resized to 50 to 200 %, cut by 1 to 5 % at two sides, made 10 or 20 %
brighter or darker. For each threshold it counts the changed copies that reach it with their
original, and the pairs of different images that reach it too. The gallery is a hard case for the
second: it holds a green circle beside a green apple.

    python benchmarks/duplicates.py [--model pe-nano]
"""

import argparse
import io
import json
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from perception_encoder import AutoModel, EmbeddingModel
from perception_encoder.preprocess.decode import decode_image
from perception_encoder.preprocess.transforms import to_rgb, turn_upright

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "duplicates.json"
THRESHOLDS = (0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)

Change = Callable[[Image.Image], Image.Image]


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="pe-nano")
    parser.add_argument("--photos", type=Path, default=ROOT.parent / "shared" / "photos")
    arguments = parser.parse_args()
    model = AutoModel.from_pretrained(arguments.model)
    sets = {
        "photos": arguments.photos,
        "gallery": ROOT / "src" / "perception_encoder" / "data" / "gallery",
    }
    report = {
        "question": "cosine of an image with its changed copies, and with other images",
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {name: version(name) for name in ("numpy", "pillow", "torch")},
        "model": arguments.model,
        "thresholds": THRESHOLDS,
        "sets": {name: _measure(model, folder) for name, folder in sets.items()},
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, found in report["sets"].items():
        print(f"{name}: {found['num_images']} images; thresholds {THRESHOLDS}")
        print(f"  {'pairs of different images':28} {found['different']['pairs_reaching']}")
        for change, scores in found["changed"].items():
            print(f"  {change:28} {scores['share_reaching']}  lowest {scores['lowest']}")


def _measure(model: EmbeddingModel, folder: Path) -> dict:
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".jpeg", ".png", ".webp"))
    images = [to_rgb(turn_upright(decode_image(path)), item=path.name) for path in paths]
    originals = model.embed_images(images, show_progress=False)
    between = (originals @ originals.T)[np.triu_indices(len(originals), 1)]
    changed = {}
    for name, change in _changes():
        copies = model.embed_images([change(p) for p in images], show_progress=False)
        scores = (copies * originals).sum(axis=1)
        changed[name] = {
            "share_reaching": [round(float((scores >= t).mean()), 4) for t in THRESHOLDS],
            "lowest": round(float(scores.min()), 4),
            "median": round(float(np.median(scores)), 4),
        }
    return {
        "num_images": len(paths),
        "different": {
            "num_pairs": len(between),
            "pairs_reaching": [int((between >= t).sum()) for t in THRESHOLDS],
            "highest": round(float(between.max()), 4),
        },
        "changed": changed,
    }


def _changes() -> Iterator[tuple[str, Change]]:
    for quality in (30, 50, 75, 95):
        yield f"JPEG quality {quality}", lambda p, q=quality: _as_jpeg(p, q)
    for percent in (50, 75, 150, 200):
        yield f"resized to {percent} %", lambda p, f=percent / 100: _resized(p, f)
    for percent in (1, 2, 5):
        yield f"cut by {percent} %", lambda p, f=percent / 100: _cut(p, f)
    for factor in (0.8, 0.9, 1.1, 1.2):
        yield f"brightness {factor}", lambda p, f=factor: ImageEnhance.Brightness(p).enhance(f)


def _as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _resized(image: Image.Image, factor: float) -> Image.Image:
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def _cut(image: Image.Image, share: float) -> Image.Image:
    left, top = (max(1, round(side * share)) for side in image.size)
    return image.crop((left, top, *image.size))


if __name__ == "__main__":
    main()
