"""How far "fast" and its alternatives move vectors from those of "standard".

Beside it stand yardsticks: each pixel a level up or down by chance, another version of Pillow, and
the same image saved once more. Vectors are computed in float32; made weights where a model's
checkpoint is not at hand.
"""

import io
import json
import pickle
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.decoding_images import Made, encoded, for_drift
from benchmarks.report import commit
from perception_encoder import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.types import PreprocessName

# Models, whether their weights are made, and whether every way is measured with them.
MODELS = (
    ("PE-Core-B16-224", True, True),
    ("PE-Core-S16-384", True, False),
    ("PE-Core-T16-384", True, False),
    ("pe-nano", False, True),
)
_MAIN_WAYS = (
    "fast",
    "decoded to 1.5 times",
    "a level up or down",
    "another Pillow",
    "saved again at quality 95",
)
Squares: TypeAlias = NDArray[np.uint8]

_OTHER_PILLOW = """
import io, pickle, sys, numpy, PIL
from PIL import Image, features
files, side = pickle.load(open(sys.argv[1], "rb"))
opened = (Image.open(io.BytesIO(data)).convert("RGB") for data in files)
resized = (image.resize((side, side), Image.Resampling.BILINEAR) for image in opened)
numpy.save(sys.argv[2], numpy.stack([numpy.asarray(image) for image in resized]))
print(PIL.__version__, "with libjpeg-turbo", features.version("libjpeg_turbo"))
"""


def drift(photos: Path, other_python: str | None, only: str | None) -> dict[str, object]:
    """Return for each model, or one, the cosines between ways of preparing the same files."""
    made = list(for_drift(photos))
    ways: dict[int, dict[str, Squares]] = {}
    figures: dict[str, object] = {"images": Counter(image.kind for image in made)}
    for name, has_made_weights, takes_all in MODELS:
        if only and name != only:
            continue
        model = AutoModel.from_pretrained(
            name, random_weights=has_made_weights, device="cpu", precision="fp32"
        )
        side = model.processor.image_size
        if side not in ways:
            ways[side] = _ways(made, model)
            if other_python:
                label, ways[side]["another Pillow"] = _other_pillow(made, side, other_python)
                figures["another Pillow"] = label
        chosen = {way: ways[side][way] for way in ways[side] if takes_all or way in _MAIN_WAYS}
        figures[name] = _of_model(model, chosen, ways[side]["standard"], made) | {
            "made_weights": has_made_weights,
            "commit": commit(),
        }
        print(name, json.dumps(figures[name], indent=1), flush=True)
    return figures


def precision(photos: Path, only: str | None) -> dict[str, object]:
    """Return the cosines between float32 and bfloat16, which "auto" takes where it is fast."""
    figures: dict[str, object] = {}
    paths = [path for path in sorted(photos.iterdir()) if path.suffix in (".jpg", ".jpeg")]
    for name, has_made_weights, _ in MODELS:
        if only and name != only:
            continue
        vectors = [
            AutoModel.from_pretrained(
                name,
                random_weights=has_made_weights,
                device="cpu",
                backend="torch",
                precision=number_format,
            ).embed_images(paths, show_progress=False)
            for number_format in ("fp32", "bf16")
        ]
        figures[name] = _spread((vectors[0] * vectors[1]).sum(axis=1)) | {"commit": commit()}
    return figures


def _ways(made: Sequence[Made], model: EmbeddingModel) -> dict[str, Squares]:
    side = model.processor.image_size
    processors = {
        name: ImageProcessor(model.config.image, side, preprocess=name)
        for name in get_args(PreprocessName)
    }
    found = defaultdict(list)
    random = np.random.default_rng(0)
    for made_one in made:
        for name, processor in processors.items():
            found[name].append(processor(made_one.data))
        for times in (1.5, 2, 3):
            smaller = Image.open(io.BytesIO(made_one.data))
            smaller.draft(None, (int(times * side),) * 2)
            found[f"decoded to {times} times"].append(_resized(smaller, side))
        image = Image.open(io.BytesIO(made_one.data))
        for gap in (2, 3):
            found[f"in two steps, gap {gap}"].append(_resized(image, side, reducing_gap=gap))
        noise = random.integers(-1, 2, (side, side, 3))
        noisy = np.clip(found["standard"][-1] + noise, 0, 255).astype(np.uint8)
        found["a level up or down"].append(noisy)
        again = encoded(image.convert("RGB"), "JPEG", quality=95)
        found["saved again at quality 95"].append(processors["standard"](again))
    return {way: np.stack(squares) for way, squares in found.items()}


def _resized(image: Image.Image, side: int, reducing_gap: float | None = None) -> Squares:
    resized = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=reducing_gap)
    return np.asarray(resized.convert("RGB"))


def _other_pillow(made: Sequence[Made], side: int, python: str) -> tuple[str, Squares]:
    """Prepare the files in another environment, as "standard" does to upright RGB images."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "given"), Path(folder, "result.npy")
        given.write_bytes(pickle.dumps(([image.data for image in made], side)))
        command = [python, "-c", _OTHER_PILLOW, str(given), str(result)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip(), np.load(result)


def _of_model(
    model: EmbeddingModel, ways: dict[str, Squares], standard: Squares, made: Sequence[Made]
) -> dict[str, object]:
    def embed(squares: Squares) -> NDArray[np.float32]:
        return model.embed_images(squares, input_color_format="rgb", show_progress=False)

    expected = embed(standard)
    kinds = [image.kind for image in made]
    own = np.array([kind == "as it is" for kind in kinds])
    between = (expected[own] @ expected[own].T)[np.triu_indices(own.sum(), 1)]
    figures: dict[str, object] = {
        "image_size": model.processor.image_size,
        "cosine_between_photos": _spread(between),
    }
    for way, squares in ways.items():
        if way != "standard":
            cosines = (expected * embed(squares)).sum(axis=1)
            levels = np.abs(squares.astype(int) - standard.astype(int))
            figures[way] = {
                "cosine": _spread(cosines),
                "worst_cosine_by_kind": {
                    kind: float(min(cosines[np.array(kinds) == kind]))
                    for kind in dict.fromkeys(kinds)
                },
                "levels_mean": float(levels.mean()),
                "levels_max": int(levels.max()),
            }
    return figures


def _spread(cosines: NDArray[np.float32]) -> dict[str, object]:
    low, median, high = np.quantile(cosines, (0, 0.5, 1)).tolist()
    return {"min": low, "median": median, "max": high}
