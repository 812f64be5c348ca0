"""What does it cost to bring large images to a model's size, and what may be left out?

Times are of one core, decoding from memory and resizing, in milliseconds an image; medians. Run
one part at a time, on a quiet machine but for the last two; each replaces its own figures in
`results/decoding.json`.

    python -m benchmarks.decoding --photos ../shared/photos --part jpeg
    ... --part formats | --part threads | --part stages | --part bulk
    ... --part precision | --part drift [--other-python PYTHON with another Pillow]

With `--model` these two measure one model again, and the others keep their figures and commits.

simplejpeg and OpenCV stand beside it where they are installed.
"""

import argparse
import hashlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.decoding_drift import MODELS, drift, precision
from benchmarks.decoding_images import (
    TWELVE,
    TWENTY_FOUR,
    encoded,
    enlarged,
    photos_in,
    with_turn,
)
from benchmarks.report import RESULTS, commit, write_report
from perception_encoder import AutoModel
from perception_encoder.preprocess import ImageProcessor, decode_image
from perception_encoder.preprocess.transforms import to_rgb, turn_upright
from perception_encoder.registry import ImageConfig

SIDES = (224, 384)
REPEATS = 7
SUBJECT = "truck.jpg"
BULK_FILES = 48


def main() -> None:
    """Measure one part, and write it beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--other-python", help="Of an environment with another version of Pillow.")
    models = [name for name, _, _ in MODELS]
    parser.add_argument("--model", choices=models, help="Only this one: drift, precision.")
    parser.add_argument(
        "--part",
        required=True,
        choices=["jpeg", "formats", "threads", "stages", "bulk", "drift", "precision"],
    )
    arguments = parser.parse_args()
    if arguments.part == "drift":
        figures = drift(arguments.photos, arguments.other_python, arguments.model)
    elif arguments.part == "precision":
        figures = precision(arguments.photos, arguments.model)
    else:
        subject = photos_in(arguments.photos)[SUBJECT]
        figures = {
            "jpeg": jpeg,
            "formats": formats,
            "threads": threads,
            "stages": stages,
            "bulk": bulk,
        }[arguments.part](subject)
    path = RESULTS / "decoding.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts = before.get("parts", {})
    if arguments.model:
        figures = parts.get(arguments.part, {}) | figures
    parts |= {arguments.part: {"commit": commit(), **figures}}
    packages = ["pillow", "pillow-heif", "numpy", "opencv-python-headless", "torch"]
    packages += ["simplejpeg"] if find_spec("simplejpeg") else []
    write_report(
        "decoding",
        "large images to a model's size",
        packages,
        {"parts": dict(sorted(parts.items()))},
    )
    print(json.dumps(figures, indent=1))


def milliseconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median of some runs, after one that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(taken), 2)


def on_one_core() -> None:
    """Keep this process, and threads that decoders start, on a single core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def jpeg(subject: Image.Image) -> dict[str, object]:
    """Time JPEGs of 12 and 24 megapixels, by this package and by others."""
    on_one_core()
    figures: dict[str, object] = {}
    twelve = enlarged(subject, TWELVE)
    files = {
        "12 MP": encoded(twelve, "JPEG", quality=90),
        "12 MP, progressive": encoded(twelve, "JPEG", quality=90, progressive=True),
        "12 MP, gray": encoded(twelve.convert("L"), "JPEG", quality=90),
        "12 MP, turned by EXIF": with_turn(twelve),
        "24 MP": encoded(enlarged(subject, TWENTY_FOUR), "JPEG", quality=90),
    }
    for name, data in files.items():
        figures[name] = {"bytes": len(data)} | {
            f"to {side}": {way: milliseconds(work) for way, work in ways(data, side).items()}
            for side in SIDES
        }
        print(name, figures[name], flush=True)
    return figures


def ways(data: bytes, side: int) -> dict[str, Callable[[], object]]:
    """Return how the bytes of a JPEG can become a square."""
    found: dict[str, Callable[[], object]] = {
        name: partial(ImageProcessor(ImageConfig(), side, preprocess=name), data)
        for name in ("standard", "reference", "fast")
    }
    found["standard, turned before the resize"] = lambda: np.array(
        to_rgb(turn_upright(decode_image(data)), item="").resize(
            (side, side), Image.Resampling.BILINEAR
        )
    )
    for times in (1.5, 3):
        found[f"decoded to {times} times"] = partial(_drafted, data, side, times)
    found["OpenCV reduced"] = partial(_by_opencv, data, side)
    if find_spec("simplejpeg"):
        found["simplejpeg"] = partial(_by_simplejpeg, data, side)
    return found


def _drafted(data: bytes, side: int, times: float) -> object:
    image = Image.open(io.BytesIO(data))
    image.draft(None, (int(times * side),) * 2)
    return np.array(image.resize((side, side), Image.Resampling.BILINEAR).convert("RGB"))


def _by_opencv(data: bytes, side: int) -> object:
    """Decode at the fraction that leaves twice the side, as "fast" does."""
    import cv2

    factor = min(min(Image.open(io.BytesIO(data)).size) // (2 * side), 8)
    flag = (
        cv2.IMREAD_COLOR
        if factor < 2
        else cv2.IMREAD_REDUCED_COLOR_2
        if factor < 4
        else cv2.IMREAD_REDUCED_COLOR_4
        if factor < 8
        else cv2.IMREAD_REDUCED_COLOR_8
    )
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)[..., ::-1]


def _by_simplejpeg(data: bytes, side: int) -> object:
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=2 * side, min_width=2 * side)
    square = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    return np.array(square)


def other_formats(subject: Image.Image) -> dict[str, bytes]:
    """Return files of 12 megapixels in formats that no decoder shrinks."""
    twelve = enlarged(subject, TWELVE)
    return {
        "PNG": encoded(twelve, "PNG"),
        "PNG, opaque alpha": encoded(twelve.convert("RGBA"), "PNG"),
        "WebP": encoded(twelve, "WEBP", quality=85),
        "WebP, lossless": encoded(twelve, "WEBP", lossless=True, quality=20, method=0),
        "HEIC": encoded(twelve, "HEIC", quality=70),
        "AVIF": encoded(twelve, "AVIF", quality=70),
        "TIFF": encoded(twelve, "TIFF"),
        "TIFF, LZW": encoded(twelve, "TIFF", compression="tiff_lzw"),
    }


def formats(subject: Image.Image) -> dict[str, object]:
    """Time other formats, decoding alone too, and an array that is in memory already."""
    import cv2

    on_one_core()
    figures: dict[str, object] = {}
    for name, data in other_formats(subject).items():
        repeats = 3 if name in ("HEIC", "WebP, lossless") else 5
        found: dict[str, float] = {"bytes": len(data)}
        found["decoding alone"] = milliseconds(lambda data=data: decode_image(data), repeats)
        for preprocess in ("standard", "fast"):
            work = partial(ImageProcessor(ImageConfig(), 224, preprocess=preprocess), data)
            found[preprocess] = milliseconds(work, repeats)
        if name != "HEIC":
            stored = np.frombuffer(data, np.uint8)
            decode = partial(cv2.imdecode, stored, cv2.IMREAD_COLOR)
            found["decoding alone, OpenCV"] = milliseconds(decode, repeats)
        figures[name] = found
        print(name, found, flush=True)
    array = np.asarray(enlarged(subject, TWELVE))
    figures["array in memory"] = {
        preprocess: milliseconds(
            partial(ImageProcessor(ImageConfig(), 224, preprocess=preprocess), array)
        )
        for preprocess in ("standard", "fast")
    }
    return figures


def stages(subject: Image.Image) -> dict[str, float]:
    """Time what happens to the file of a 12-megapixel JPEG, step by step, on one core."""
    on_one_core()
    data = encoded(enlarged(subject, TWELVE), "JPEG", quality=90)
    square = ImageProcessor(ImageConfig(), 224, preprocess="fast")(data)
    image = decode_image(data)
    batch = np.empty((1, 224, 224, 3), np.uint8)

    def put() -> None:
        batch[0] = square

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.jpg")
        path.write_bytes(data)
        return {
            "reading the file": milliseconds(path.read_bytes),
            "SHA-256": milliseconds(lambda: hashlib.sha256(data).hexdigest()),
            "decoding in full": milliseconds(lambda: decode_image(data)),
            "decoding in full, from a path": milliseconds(lambda: decode_image(path)),
            "resize to 224": milliseconds(
                lambda: image.resize((224, 224), Image.Resampling.BILINEAR)
            ),
            "resize to 224 in two steps": milliseconds(
                lambda: image.resize((224, 224), Image.Resampling.BILINEAR, reducing_gap=3)
            ),
            "a quarter turn before the resize": milliseconds(
                lambda: image.transpose(Image.Transpose.ROTATE_270)
            ),
            "into the batch": milliseconds(put),
        }


def threads(subject: Image.Image) -> dict[str, float]:
    """Return how many times as fast two threads are as one, for each step and whole formats."""
    data = encoded(enlarged(subject, TWELVE), "JPEG", quality=90)
    image = decode_image(data)
    tasks: dict[str, Callable[[], object]] = {
        "SHA-256": lambda: hashlib.sha256(data).hexdigest(),
        "decoding a JPEG": lambda: decode_image(data),
        "resize": lambda: image.resize((224, 224), Image.Resampling.BILINEAR),
    }
    for preprocess in ("standard", "fast"):
        process = ImageProcessor(ImageConfig(), 224, preprocess=preprocess)
        tasks[f"JPEG, {preprocess}"] = partial(process, data)
    process = ImageProcessor(ImageConfig(), 224)
    for name, stored in other_formats(subject).items():
        tasks[name] = partial(process, stored)
    figures = {}
    with ThreadPoolExecutor(2) as pool:
        for name, task in tasks.items():
            task()
            started = time.perf_counter()
            task()
            count = 2 * max(1, round(0.4 / (time.perf_counter() - started)))
            ratios = []
            for _ in range(3):
                one = _seconds(lambda task=task, count=count: [task() for _ in range(count)])
                two = _seconds(
                    lambda task=task, count=count: list(pool.map(lambda _: task(), range(count)))
                )
                ratios.append(one / two)
            figures[name] = round(statistics.median(ratios), 2)
            print(name, figures[name], flush=True)
    return figures


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bulk(subject: Image.Image) -> dict[str, object]:
    """Return images a second of `embed_images` over JPEG files of 12 megapixels."""
    figures: dict[str, object] = {"files": BULK_FILES}
    twelve = enlarged(subject, TWELVE)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jpg") for number in range(BULK_FILES)]
        for number, path in enumerate(paths):
            shifted = twelve.transform(TWELVE, Image.Transform.AFFINE, (1, 0, number, 0, 1, 0))
            shifted.save(path, quality=90)
        for name, has_made_weights in (("pe-nano", False), ("PE-Core-T16-384", True)):
            for preprocess in ("standard", "fast"):
                model = AutoModel.from_pretrained(
                    name, random_weights=has_made_weights, preprocess=preprocess, device="cpu"
                )
                model.embed_images(paths[:4], show_progress=False)
                rates = [
                    BULK_FILES
                    / _seconds(lambda m=model: m.embed_images(paths, show_progress=False))
                    for _ in range(3)
                ]
                figures[f"{name}, {preprocess}"] = round(statistics.median(rates), 2)
                print(name, preprocess, rates, model.identity, flush=True)
    return figures


if __name__ == "__main__":
    main()
