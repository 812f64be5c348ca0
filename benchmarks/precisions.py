"""What do lower precisions change, in vectors and in the order of hits, with a real model's shape?

PE-Core-B16 with made-up weights through OpenVINO: int8 and bf16 beside fp32, over whole photos,
crops of them, drawings and words. Then the crops as a table: of the ten nearest to each crop, and
to each text, how many are the same.

    python -m benchmarks.precisions --photos ../shared/photos --work /tmp/startup
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.made_models import B16, CAPTIONS, random_folder
from benchmarks.report import write_report
from perception_encoder import AutoModel
from perception_encoder.types import Embeddings, Precision

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
NUM_CROPS = 240
NUM_TEXTS = 64
K = 10


def main() -> None:
    """Embed everything in each precision, compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="For weights; kept, 2 GB.")
    arguments = parser.parse_args()
    suffixes = (".jpg", ".jpeg", ".png")
    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix in suffixes)
    photos = [Image.open(path).convert("RGB") for path in paths]
    kinds = {
        "photos": [smaller(photo, 1024) for photo in photos],
        "crops of photos": crops(photos),
        "drawings": [Image.open(path) for path in sorted(GALLERY.glob("*.webp"))[3::8]],
    }
    model = random_folder(arguments.work, B16)
    exact = vectors(model, "fp32", kinds)
    figures = {
        precision: compared(exact, vectors(model, precision, kinds))
        for precision in ("bf16", "int8")
    }
    print(json.dumps(figures, indent=1))
    print(
        write_report(
            "precisions",
            "cosines with fp32 and hits that stay, PE-Core-B16 with made-up weights, OpenVINO",
            ["perception-encoder", "openvino", "nncf", "numpy", "pillow"],
            {"num": {name: len(items) for name, items in exact.items()}, "k": K, **figures},
        )
    )


def vectors(
    model: Path, precision: Precision, kinds: dict[str, list[Image.Image]]
) -> dict[str, Embeddings]:
    """The vectors of every kind of picture, and of captions, by name."""
    with AutoModel.from_pretrained(model, backend="openvino", precision=precision) as opened:
        found = {name: opened.embed_images(images, batch_size=8) for name, images in kinds.items()}
        captions = Path(CAPTIONS).read_text(encoding="utf-8").splitlines()
        return {**found, "texts": opened.embed_text(captions[:NUM_TEXTS])}


def compared(exact: dict[str, Embeddings], found: dict[str, Embeddings]) -> dict[str, object]:
    """Cosines, kind by kind, and the share of the best ten that stays."""
    cosines = {name: (exact[name] * found[name]).sum(axis=1) for name in exact}
    rows = "crops of photos"
    return {
        "cosine": {
            name: {"lowest": float(values.min()), "mean": float(values.mean())}
            for name, values in cosines.items()
        },
        "best_ten_kept": {
            "by picture": kept(
                near(exact[rows], exact[rows], 1), near(found[rows], found[rows], 1)
            ),
            "by words": kept(near(exact["texts"], exact[rows]), near(found["texts"], found[rows])),
        },
    }


def near(queries: Embeddings, rows: Embeddings, skipped: int = 0) -> NDArray[np.intp]:
    """(Q, K): the nearest rows; `skipped` leaves out the query itself."""
    return np.argsort(-(queries @ rows.T), axis=1)[:, skipped : skipped + K]


def kept(before: NDArray[np.intp], after: NDArray[np.intp]) -> float:
    """The share of rows that stay among the nearest."""
    pairs = zip(before.tolist(), after.tolist(), strict=True)
    return float(np.mean([len(set(old) & set(new)) / K for old, new in pairs]))


def crops(photos: list[Image.Image]) -> list[Image.Image]:
    """Parts of the photos, each photo in turn."""
    random = np.random.default_rng(5)
    made = []
    for number in range(NUM_CROPS):
        photo = photos[number % len(photos)]
        share = random.uniform(0.25, 0.9)
        width, height = int(photo.width * share), int(photo.height * share)
        left = int(random.integers(0, photo.width - width + 1))
        top = int(random.integers(0, photo.height - height + 1))
        made.append(smaller(photo.crop((left, top, left + width, top + height)), 512))
    return made


def smaller(picture: Image.Image, side: int) -> Image.Image:
    """A copy that fits a square."""
    copy = picture.copy()
    copy.thumbnail((side, side))
    return copy


if __name__ == "__main__":
    main()
