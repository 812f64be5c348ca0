"""What do lower precisions change, in vectors and in the order of hits?

Bf16 and int8 through OpenVINO, and int8 through onnxruntime, beside OpenVINO in fp32: pe-nano,
which was trained, and PE-Core-B16 with random weights; over photos, crops of them, drawings that
int8 was not calibrated on, and words. Then, of the ten nearest to each image and to each text,
how many are the same: for pe-nano of the drawings, which it knows, for B16 of the crops.

    python -m benchmarks.precisions --photos ../shared/photos --work /tmp/precisions

With `--model` one of the two is measured again, and the other keeps its figures and its commit.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.random_models import B16, CAPTIONS, random_folder
from benchmarks.report import RESULTS, commit, write_report
from perception_encoder import AutoModel
from perception_encoder.types import BackendName, Embeddings, Precision

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
NANO = "pe-nano"
RANKED = {NANO: "drawings", B16: "crops of photos"}
BACKENDS: tuple[tuple[BackendName, Precision], ...] = (
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnx", "int8"),
)
CALIBRATED = 6  # every sixth drawing of the gallery
B16_DRAWINGS = 5  # every fifth of the others: an image takes a fifth of a second
NUM_CROPS = 240
NUM_TEXTS = 64
K = 10


def main() -> None:
    """Embed everything in each precision, compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="For weights; kept, 2 GB.")
    parser.add_argument("--model", choices=[NANO, B16], help="Only this one.")
    arguments = parser.parse_args()
    suffixes = (".jpg", ".jpeg", ".png")
    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix in suffixes)
    photos = [Image.open(path).convert("RGB") for path in paths]
    drawings = [
        Image.open(path)
        for place, path in enumerate(sorted(GALLERY.glob("*.webp")))
        if place % CALIBRATED
    ]
    kinds = {
        "photos": [smaller(photo, 1024) for photo in photos],
        "crops of photos": crops(photos),
        "drawings": drawings,
    }
    path = RESULTS / "precisions.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures = {name: before[name] for name in (NANO, B16) if name in before}
    if arguments.model != B16:
        figures[NANO] = measured(NANO, NANO, kinds)
    if arguments.model != NANO:
        folder = random_folder(arguments.work, B16)
        fewer = kinds | {"drawings": drawings[::B16_DRAWINGS]}
        figures[B16] = measured(B16, folder, fewer)
    print(json.dumps(figures, indent=1))
    print(
        write_report(
            "precisions",
            "cosines with fp32 and hits that stay: pe-nano, and PE-Core-B16 with random weights",
            ["perception-encoder", "openvino", "nncf", "onnxruntime", "numpy", "pillow"],
            {"k": K, **figures},
        )
    )


def measured(name: str, model: Path | str, kinds: dict[str, list[Image.Image]]) -> dict[str, Any]:
    """One model: how many of each kind, and for every backend what is other than in fp32."""
    exact = vectors(model, "openvino", "fp32", kinds)
    backends = {
        f"{backend} {precision}": compared(
            exact, vectors(model, backend, precision, kinds), RANKED[name]
        )
        for backend, precision in BACKENDS
    }
    num = {kind: len(rows) for kind, rows in exact.items()}
    return {"commit": commit(), "num": num, **backends}


def vectors(
    model: Path | str,
    backend: BackendName,
    precision: Precision,
    kinds: dict[str, list[Image.Image]],
) -> dict[str, Embeddings]:
    """The vectors of every kind of image, and of captions, by name."""
    with AutoModel.from_pretrained(model, backend=backend, precision=precision) as opened:
        found = {name: opened.embed_images(images, batch_size=8) for name, images in kinds.items()}
        captions = Path(CAPTIONS).read_text(encoding="utf-8").splitlines()
        return {**found, "texts": opened.embed_text(captions[:NUM_TEXTS])}


def compared(
    exact: dict[str, Embeddings], found: dict[str, Embeddings], rows: str
) -> dict[str, object]:
    """Cosines, kind by kind, and the share of the best ten that stays."""
    cosines = {name: (exact[name] * found[name]).sum(axis=1) for name in exact}
    return {
        "cosine": {
            name: {"lowest": float(values.min()), "mean": float(values.mean())}
            for name, values in cosines.items()
        },
        "best_ten_kept": {
            "by image": kept(near(exact[rows], exact[rows], 1), near(found[rows], found[rows], 1)),
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


def smaller(image: Image.Image, side: int) -> Image.Image:
    """A copy that fits a square."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


if __name__ == "__main__":
    main()
