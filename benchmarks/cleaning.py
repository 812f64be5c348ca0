"""Are planted faults found, what else is called a fault, and what does it take?

- "drawings": 10,000 files, changed drawings of the gallery in folders of splits and classes, by
  pe-nano, with planted leaks, wrong labels, outliers and bad pixels; all kinds, pixels included.
- "vectors": 10,000 and 100,000 synthetic embeddings of E = 512 in 100 classes of 8 kinds each, with
  planted leaks, wrong labels and outliers; no pixels, as there are none.
- "photos": bad pixels planted in real photos (`../shared/photos`, or --photos), and how many good
  photos and drawings are called bad.
- "select", "select_among": coverage, and the accuracy of a probe that learned from the chosen
  images, beside random ones.

Beside ours: the local outlier factor and isolation forests of scikit-learn; labels that a
cross-validated logistic regression does not predict; the variance of the Laplacian below 100.

    python -m benchmarks.cleaning
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from benchmarks.report import write_report

ROOT = Path(__file__).parent.parent
GALLERY = ROOT / "src/perception_encoder/data/gallery"
T = TypeVar("T")

NUM_DRAWINGS = 10_000
NUM_VECTORS = (10_000, 100_000)
EMBED_DIM = 512
MAX_PEERS = 10_000  # images; beyond it the peers take hours
CLASSES = {
    "animal": "bat bear bee butterfly camel cat chicken cow crab crocodile deer dog dolphin duck "
    "eagle elephant fish flamingo fox frog giraffe goat hamster hedgehog horse kangaroo koala lion "
    "lobster monkey mouse octopus owl panda parrot penguin pig rabbit rooster shark sheep snail "
    "snake spider tiger turtle whale wolf zebra",
    "food": "avocado banana blueberries bread broccoli carrot cheese cherries chocolate-bar cookie "
    "corn croissant cucumber doughnut eggplant french-fries grapes green-apple hamburger hot-dog "
    "ice-cream lemon lollipop pancakes pear pie pineapple pizza popcorn red-apple strawberry sushi "
    "tomato watermelon",
    "vehicle": "airplane ambulance bicycle bullet-train bus delivery-truck fire-engine helicopter "
    "locomotive motorcycle police-car racing-car red-car rocket sailboat ship taxi tractor",
    "plant": "bouquet cactus cherry-blossom fir-tree four-leaf-clover hibiscus maple-leaf "
    "palm-tree potted-plant rose sunflower tree tulip",
    "face": "alien angry-face clown-face crying-face face-with-sunglasses laughing-face robot "
    "skull snowman",
    "heart": "black-heart blue-heart broken-heart green-heart orange-heart purple-heart red-heart "
    "yellow-heart",
    "clothing": "backpack baseball-cap dress high-heels jeans necktie running-shoe scarf socks "
    "t-shirt top-hat",
    "tool": "axe broom hammer key ladder magnet paintbrush pencil saw scissors screwdriver wrench",
    "music": "bell drum guitar headphones microphone piano-keys saxophone trumpet violin",
    "sky": "cloud crescent-moon full-moon lightning rain-cloud rainbow ringed-planet snowflake sun "
    "thundercloud tornado",
}


def main() -> None:
    """Measure all parts, each in a process of its own, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, default=ROOT.parent / "shared" / "photos")
    parser.add_argument("--part", help="measure one part and print its JSON")
    parser.add_argument("--folder", type=Path, help="with --part: where drawings are kept")
    parser.add_argument("--note", default="", help="what to say of the machine")
    arguments = parser.parse_args()
    if arguments.part:
        name, _, count = arguments.part.partition(":")
        found = _PARTS[name](arguments.folder, arguments.photos, int(count or 0))
        print(json.dumps(found | {"peak memory, MiB": _peak()}))
        return
    parts = ["drawings", *(f"vectors:{count}" for count in NUM_VECTORS), "photos", "select"]
    parts.append(f"select_among:{NUM_VECTORS[-1]}")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            command = [sys.executable, "-m", "benchmarks.cleaning", "--part", part]
            command += ["--photos", str(arguments.photos), "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            name = part.replace(":", " ")
            figures[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, json.dumps(figures[name], indent=1), flush=True)
    question = "whether planted faults are found, what else is called a fault, and what it takes"
    packages = ["numpy", "faiss-cpu", "pillow", "scikit-learn"]
    write_report("cleaning", question, packages, figures, arguments.note)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _compare(found: set, planted: set) -> dict[str, float | int]:
    """Precision and recall of what was found."""
    hits = len(found & planted)
    return {
        "planted": len(planted),
        "found": len(found),
        "precision": round(hits / len(found), 3) if found else 1.0,
        "recall": round(hits / len(planted), 3) if planted else 1.0,
    }


# Drawings


def measure_drawings(folder: Path, photos: Path, _: int) -> dict[str, object]:
    """Plant faults in files, index them, and clean twice."""
    from perception_encoder import ImageIndex

    planted = write_drawings(folder / "set", photos)
    index = ImageIndex(folder / "drawings.lance", "pe-nano")
    _, indexed = _timed(lambda: index.add(folder / "set", show_progress=False))
    report, first = _timed(index.clean)
    _, second = _timed(index.clean)
    _, drawn = _timed(lambda: report.save(folder / "report.html"))
    kinds = {
        kind: _compare({one.row.uri for one in found}, planted[kind])
        for kind, found in report.findings.items()
    }
    return {
        "images": report.num_images,
        "kinds": kinds,
        "to index": indexed,
        "to clean": first,
        "to clean again": second,
        "to draw the report": drawn,
        "size of the report, MB": round((folder / "report.html").stat().st_size / 1e6, 2),
        "peak memory of indexing and cleaning, MiB": _peak(),
        "peers": _peers(*_vectors_of(index), planted),
    }


def write_drawings(folder: Path, photos: Path) -> dict[str, set[str]]:
    """Write a data set with faults; return the files of each kind.

    All variants of a drawing are of one split, so that there are no other leaks.
    """
    rng = random.Random(0)
    drawings = [(kind, name) for kind, names in CLASSES.items() for name in names.split()]
    planted: dict[str, set[str]] = {
        kind: set()
        for kind in (
            "leak", "wrong label", "outlier", "blurry", "dark", "bright", "blank",
            "low information", "odd aspect ratio",
        )
    }  # fmt: skip
    sources = {name: Image.open(GALLERY / f"{name}.webp").convert("RGB") for _, name in drawings}
    for number in range(NUM_DRAWINGS):
        kind, name = drawings[number % len(drawings)]
        split = "test" if hash_of(name) % 5 == 0 else "train"
        image = _vary(sources[name], rng)
        fault = _FAULTS[number] if number < len(_FAULTS) else ""
        if fault == "wrong label":
            kind = rng.choice([other for other in CLASSES if other != kind])
        image = _spoil(image, fault, rng, photos)
        path = folder / split / kind / f"{number:05}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90, method=0)
        if fault:
            planted[fault].add(str(path))
        if fault == "leak":
            other = path.with_suffix(".jpg")
            other = folder / ("train" if split == "test" else "test") / kind / other.name
            other.parent.mkdir(parents=True, exist_ok=True)
            image.resize((144, 144)).save(other, quality=80)
            if split == "train":  # the image of the test split is the one to report
                planted["leak"] = (planted["leak"] - {str(path)}) | {str(other)}
    return planted


_FAULTS = [
    kind
    for kind, count in {
        "leak": 100, "wrong label": 300, "outlier": 20, "blurry": 100, "dark": 100, "bright": 100,
        "blank": 50, "low information": 50, "odd aspect ratio": 50,
    }.items()
    for _ in range(count)
]  # fmt: skip
random.Random(1).shuffle(_FAULTS)


def hash_of(name: str) -> int:
    """A number that is the same in every run."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 1_000_003


def _vary(image: Image.Image, rng: random.Random) -> Image.Image:
    """Turn, shift and tint a drawing."""
    paper = tuple(rng.randint(150, 255) for _ in range(3))
    side = rng.randint(110, 155)
    turned = image.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, fillcolor=paper)
    canvas = Image.new("RGB", (160, 160), paper)
    place = rng.randint(0, 160 - side), rng.randint(0, 160 - side)
    canvas.paste(turned.resize((side, side), Image.Resampling.LANCZOS), place)
    return ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.8, 1.1))


def _spoil(image: Image.Image, fault: str, rng: random.Random, photos: Path) -> Image.Image:
    if fault == "blurry":
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.01, 0.03) * image.width))
    if fault == "dark":
        return ImageEnhance.Brightness(image).enhance(rng.uniform(0.05, 0.2))
    if fault == "bright":
        return image.point(lambda level: 235 + level * 20 // 255)
    if fault == "blank":
        return Image.new("RGB", (160, 160), tuple(rng.randint(0, 255) for _ in range(3)))
    if fault == "low information":
        plain = Image.new("RGB", (160, 160), tuple(rng.randint(150, 220) for _ in range(3)))
        ImageDraw.Draw(plain).rectangle((60, 60, 60 + rng.randint(12, 25), 80), fill="black")
        return plain
    if fault == "odd aspect ratio":
        return image.resize((160, rng.randint(20, 50)))
    if fault == "outlier":
        return _stray(rng, photos)
    return image


def _stray(rng: random.Random, photos: Path) -> Image.Image:
    """A part of a photo; noise where there are no photos."""
    paths = sorted(path for path in photos.glob("*.jp*g"))
    if paths:
        photo = Image.open(rng.choice(paths)).convert("RGB")
        side = rng.randint(150, 350)
        left, top = (rng.randint(0, max(0, length - side)) for length in photo.size)
        return photo.crop((left, top, left + side, top + side)).resize((160, 160))
    noise = np.random.default_rng(rng.randrange(10**9)).integers(0, 256, (40, 40, 3), np.uint8)
    return Image.fromarray(noise).resize((160, 160), Image.Resampling.NEAREST)


def _vectors_of(index: object) -> tuple[NDArray[np.float32], list[str]]:
    from perception_encoder.analysis.ranked_images import read_blocks

    blocks = list(read_blocks(index._index))
    return np.concatenate([block.vectors for block in blocks]), [
        row.uri for block in blocks for row in block.rows
    ]


def _peers(
    vectors: NDArray[np.float32], uris: list[str], planted: dict[str, set[str]]
) -> dict[str, object]:
    """What scikit-learn's methods find in the same embeddings, told how many to report."""
    labels = np.unique([Path(uri).parent.name for uri in uris], return_inverse=True)[1]
    names = np.array(uris)
    return {
        **_peer_outliers(vectors, names, planted["outlier"]),
        "wrong label, not predicted by logistic regression": _with_time(
            lambda: _compare(set(names[_unpredicted(vectors, labels)]), planted["wrong label"])
        ),
        "blurry, variance of the Laplacian below 100": _with_time(
            lambda: _compare(
                {uri for uri in uris if _laplacian(Image.open(uri)) < 100}, planted["blurry"]
            )
        ),
    }


def _peer_outliers(
    vectors: NDArray[np.float32], names: NDArray[np.str_], planted: set[str]
) -> dict[str, object]:
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import LocalOutlierFactor

    def first(scores: NDArray[np.float64]) -> dict[str, float | int]:
        return _compare(set(names[np.argsort(scores)[: len(planted)]]), planted)

    def factor() -> dict[str, float | int]:
        method = LocalOutlierFactor(metric="cosine")
        method.fit(vectors)
        return first(method.negative_outlier_factor_)

    def forest() -> dict[str, float | int]:
        return first(IsolationForest(random_state=0).fit(vectors).score_samples(vectors))

    return {
        "outlier, local outlier factor, told their number": _with_time(factor),
        "outlier, isolation forest, told their number": _with_time(forest),
    }


def _timed(call: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Return what a call returns, and how long it took, by the clock and on all cores together."""
    began, worked = time.monotonic(), time.process_time()
    found = call()
    return found, {
        "seconds": round(time.monotonic() - began, 1),
        "processor seconds": round(time.process_time() - worked, 1),
    }


def _with_time(call: Callable[[], dict[str, float | int]]) -> dict[str, object]:
    found, times = _timed(call)
    return found | times


def _unpredicted(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    model = LogisticRegression(max_iter=100, C=10)
    return cross_val_predict(model, vectors, labels, cv=5) != labels


def _laplacian(image: Image.Image) -> float:
    levels = np.asarray(image.convert("L"), np.float32)
    edges = levels[1:-1, :-2] + levels[1:-1, 2:] + levels[:-2, 1:-1] + levels[2:, 1:-1]
    return float((edges - 4 * levels[1:-1, 1:-1]).var())


# Vectors


def measure_vectors(_: Path, __: Path, count: int) -> dict[str, object]:
    """Plant faults in synthetic embeddings."""
    from perception_encoder.analysis.cleaning import CleaningOptions, clean_index

    with tempfile.TemporaryDirectory() as folder:
        index, planted, vectors = build_vectors(folder, count)
        memory = _peak()
        options = CleaningOptions(kinds=("leak", "wrong label", "outlier"))
        report, times = _timed(lambda: clean_index(index, _refuse, options))
        found = {
            kind: _compare({one.row.uri for one in each}, planted[kind])
            for kind, each in report.findings.items()
        }
        figures: dict[str, object] = {
            "images": count,
            "kinds": found,
            "share of ordinary images called outliers": round(
                len({one.row.uri for one in report.findings["outlier"]} - planted["outlier"])
                / (count - len(planted["outlier"])),
                5,
            ),
            "to clean": times,
            "memory before, MiB": memory,
            "memory after cleaning, MiB": _peak(),
        }
        if count <= MAX_PEERS:
            figures["peers"] = _peer_outliers(
                vectors, np.array([f"{n:07}" for n in range(count)]), planted["outlier"]
            )
        return figures


def _refuse(row: object) -> bytes:
    raise AssertionError(f"{row} was read")


def build_vectors(
    folder: str, count: int
) -> tuple[object, dict[str, set[str]], NDArray[np.float32]]:
    """Build an index of synthetic embeddings with labels and splits, and plant faults in them."""
    from perception_encoder.index import Index, Row
    from perception_encoder.types import ModelIdentity

    rng = np.random.default_rng(0)
    vectors, labels = mixture(rng, count)
    order = rng.permutation(count)
    strays, wrong, leaks = np.split(order[: count // 200 + count // 50 + count // 100],
                                    [count // 200, count // 200 + count // 50])  # fmt: skip
    vectors[strays] = _unit(0.15**0.5 * _mean(rng) + 0.85**0.5 * _colored(rng, len(strays)))
    is_test = rng.random(count) < 0.2
    is_test[leaks] = True
    ordinary = np.setdiff1d(np.flatnonzero(~is_test), np.concatenate([strays, wrong]))
    partners = rng.choice(ordinary, len(leaks), replace=False)
    vectors[leaks] = _unit(vectors[partners] + 0.12 * _colored(rng, len(leaks)))
    labels[leaks] = labels[partners]
    given = labels.copy()
    given[wrong] = (labels[wrong] + rng.integers(1, NUM_CLASSES, len(wrong))) % NUM_CLASSES
    identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", EMBED_DIM)
    index = Index.create(f"{folder}/index", identity)
    for start in range(0, count, 8192):
        numbers = range(start, min(start + 8192, count))
        rows = [
            Row(
                uri=f"{n:07}",
                width=100,
                height=100,
                metadata={
                    "label": f"class {given[n]}",
                    "split": "test" if is_test[n] else "train",
                },
            )
            for n in numbers
        ]
        index.append(rows, vectors[start : start + 8192])
    planted = {"outlier": strays, "wrong label": wrong, "leak": leaks}
    return (
        index,
        {kind: {f"{n:07}" for n in numbers.tolist()} for kind, numbers in planted.items()},
        vectors,
    )


NUM_CLASSES, KINDS_OF_CLASS = 100, 8
_SPECTRUM = np.arange(1, EMBED_DIM + 1) ** -0.4
_SPECTRUM /= np.linalg.norm(_SPECTRUM)


def mixture(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings with something in common (35 %), a class, a kind of it and noise of their own."""
    classes = _colored(rng, NUM_CLASSES)
    kinds = _colored(rng, NUM_CLASSES * KINDS_OF_CLASS)
    labels = rng.integers(NUM_CLASSES, size=count)
    own = labels * KINDS_OF_CLASS + rng.integers(KINDS_OF_CLASS, size=count)
    vectors = np.empty((count, EMBED_DIM), np.float32)
    for start in range(0, count, 16_384):
        block = slice(start, start + 16_384)
        vectors[block] = _unit(
            0.35**0.5 * _mean(rng)
            + 0.1**0.5 * classes[labels[block]]
            + 0.1**0.5 * kinds[own[block]]
            + 0.45**0.5 * _colored(rng, len(labels[block]))
        )
    return vectors, labels


def _mean(_: np.random.Generator) -> NDArray[np.float64]:
    return _unit(np.random.default_rng(7).standard_normal((1, EMBED_DIM)))[0]


def _colored(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return rng.standard_normal((count, EMBED_DIM)) * _SPECTRUM


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


# Photos


def measure_photos(_: Path, photos: Path, __: int) -> dict[str, object]:
    """Spoil real photos; count what is found, and which good photos and drawings are called bad."""
    from sklearn.datasets import load_sample_images

    images = [Image.open(p).convert("RGB") for p in sorted(photos.glob("*.jp*g"))]
    images += [Image.fromarray(one) for one in load_sample_images().images]
    drawings = [Image.open(path).convert("RGB") for path in sorted(GALLERY.glob("*.webp"))]
    parts = [part for image in images for part in _parts(image)]
    good = {"photos": images, "parts of photos": parts, "drawings": drawings}
    figures: dict[str, object] = {
        "good images": {name: len(each) for name, each in good.items()},
        "good images with a fault": {name: _faults_of(each) for name, each in good.items()},
    }
    found = {}
    for name, kind, spoil in _spoilings():
        faults = [_faults_in(spoil(image)) for image in images]
        found[name] = {
            "kind": kind,
            "images": len(images),
            "recall": round(float(np.mean([kind in one for one in faults])), 3),
        }
        if kind == "blurry":
            found[name]["recall of the Laplacian below 100"] = round(
                float(np.mean([_laplacian(_shrink(spoil(image))) < 100 for image in images])), 3
            )
    figures["spoilt photos"] = found
    for name, each in good.items():
        figures[f"{name} with a Laplacian below 100"] = sum(
            _laplacian(_shrink(image)) < 100 for image in each
        )
    return figures


def _parts(image: Image.Image) -> Iterator[Image.Image]:
    """Four quarters of a photo, which have backgrounds out of focus."""
    width, height = image.width // 2, image.height // 2
    for left in (0, width):
        for top in (0, height):
            yield image.crop((left, top, left + width, top + height))


def _shrink(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((512, 512), Image.Resampling.LANCZOS)
    return small


def _faults_of(images: list[Image.Image]) -> dict[str, int]:
    counts = dict.fromkeys(("blurry", "dark", "bright", "blank", "low information"), 0)
    for image in images:
        for kind in _faults_in(image):
            counts[kind] += 1
    return counts


def _faults_in(image: Image.Image) -> set[str]:
    from perception_encoder.analysis.cleaning.clean import find_faults
    from perception_encoder.analysis.cleaning.pixels import measure_image

    values = np.array([measure_image(image)], np.float32)
    return {kind for kind, fault in find_faults(values).items() if fault.is_found[0]}


def _spoilings() -> Iterator[tuple[str, str, object]]:
    for share in (0.004, 0.01, 0.02):
        yield (
            f"Gaussian blur of {share:.1%} of the longer side",
            "blurry",
            lambda p, s=share: p.filter(ImageFilter.GaussianBlur(s * max(p.size))),
        )
    for share in (0.02, 0.04):
        yield (
            f"moved by {share:.0%} of the width",
            "blurry",
            lambda p, s=share: _moved(p, max(2, round(s * p.width))),
        )
    for factor in (0.3, 0.2, 0.1):
        yield f"brightness × {factor}", "dark", lambda p, f=factor: _scaled(p, f)
    for factor in (4, 8, 16):
        yield f"brightness × {factor}", "bright", lambda p, f=factor: _scaled(p, f)


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.point(lambda level: min(255, int(level * factor)))


def _moved(image: Image.Image, width: int) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    sums = np.cumsum(np.pad(pixels, ((0, 0), (width, 0), (0, 0)), mode="edge"), axis=1)
    return Image.fromarray(((sums[:, width:] - sums[:, :-width]) / width).astype(np.uint8))


# Selection


def measure_selection(folder: Path, _: Path, __: int) -> dict[str, object]:
    """Choose images of drawings, digits and synthetic embeddings, and train on them."""
    from sklearn.datasets import load_digits

    from perception_encoder import ImageIndex

    figures: dict[str, object] = {}
    vectors, uris = _vectors_of(ImageIndex(folder / "drawings.lance"))
    labels = np.unique([Path(uri).parent.name for uri in uris], return_inverse=True)[1]
    figures["drawings, with planted faults"] = _select(folder / "selection", vectors, labels)
    digits = load_digits()
    centered = digits.data - digits.data.mean(axis=0)
    with tempfile.TemporaryDirectory() as name:
        figures["digits of scikit-learn"] = _select(Path(name), _unit(centered), digits.target)
    return figures


def _index_of(folder: Path, vectors: NDArray[np.float32], labels: list[str | None]) -> object:
    from perception_encoder.index import Index, Row
    from perception_encoder.types import ModelIdentity

    folder.mkdir(parents=True, exist_ok=True)
    identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", vectors.shape[1])
    index = Index.create(folder / "index", identity, vector_dtype="float32")
    metadata = [{} if label is None else {"label": label} for label in labels]
    rows = [Row(uri=f"{n:07}", metadata=one) for n, one in enumerate(metadata)]
    index.append(rows, vectors)
    return index


def _select(
    folder: Path, vectors: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, object]:
    """Train on 50 and 200 chosen images, and measure on all others."""
    from perception_encoder.analysis.selection import SelectOptions, select_images

    index = _index_of(folder, vectors, [None] * len(vectors))
    begun = np.random.default_rng(0).choice(len(vectors), 50, replace=False)
    known = [f"c{labels[n]}" if n in set(begun.tolist()) else None for n in range(len(vectors))]
    begun_index = _index_of(folder / "begun", vectors, known)
    figures = {}
    for count in (50, 200):
        chosen: dict[str, list[NDArray[np.int64]]] = {"random, mean of 10": []}
        for seed in range(10):
            chosen["random, mean of 10"].append(
                np.random.default_rng(seed).choice(len(vectors), count, replace=False)
            )
        for by in ("diverse", "representative"):
            found = select_images(index, SelectOptions(count, by))
            chosen[by] = [np.array([int(row.uri) for row in found.rows])]
        if count > len(begun):
            found = select_images(begun_index, SelectOptions(count - len(begun), "uncertain"))
            added = np.array([int(row.uri) for row in found.rows])
            chosen["50 random ones, then uncertain ones"] = [np.concatenate([begun, added])]
        figures[f"{count} images"] = {
            name: _quality(vectors, labels, each) for name, each in chosen.items()
        }
    return figures


def _quality(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], choices: list[NDArray[np.int64]]
) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    rows = []
    for chosen in choices:
        rest = np.setdiff1d(np.arange(len(vectors)), chosen)
        distances = 1 - (vectors @ vectors[chosen].T).max(axis=1)
        scores = [
            method.fit(vectors[chosen], labels[chosen]).score(vectors[rest], labels[rest])
            for method in (
                LogisticRegression(max_iter=500, C=10),
                KNeighborsClassifier(1, metric="cosine"),
            )
        ]
        rows.append([distances.max(), distances.mean(), *scores, len(set(labels[chosen]))])
    names = ("radius", "mean distance", "accuracy of a probe", "accuracy of 1-NN", "classes")
    means = np.mean(rows, axis=0)
    return dict(zip(names, (round(float(value), 4) for value in means), strict=True))


def measure_selection_at_scale(_: Path, __: Path, count: int) -> dict[str, object]:
    """Choose 500 of many synthetic embeddings."""
    from perception_encoder.analysis.selection import SelectOptions, select_images

    folder = tempfile.TemporaryDirectory()
    index, _planted, _vectors = build_vectors(folder.name, count)
    figures: dict[str, object] = {"memory before, MiB": _peak()}
    for by in ("diverse", "representative", "uncertain"):
        options = SelectOptions(500, by)
        found, times = _timed(partial(select_images, index, options))
        figures[by] = times | {
            "images": 500,
            "radius": round(found.radius, 3),
            "mean distance": round(found.mean_distance, 3),
            "peak memory so far, MiB": _peak(),
        }
    return figures


_PARTS = {
    "drawings": measure_drawings,
    "vectors": measure_vectors,
    "photos": measure_photos,
    "select": measure_selection,
    "select_among": measure_selection_at_scale,
}


if __name__ == "__main__":
    main()
