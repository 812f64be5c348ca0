"""How fast are images and texts turned into vectors, beside the peers that can do the same?

Each backend runs in a process and an environment of its own, with two threads. All of a row are
measured in turns, forwards and backwards, so that a machine that changes its speed changes all of
them alike; ratios are medians of the rounds' ratios. Weights are made up, of the real shapes, and
the same for open_clip, timm and this package: their vectors are compared in the same run. The
machine's own rate of matrix products is measured right after the rounds.

    make peers                          # their environments, in .peers
    python -m benchmarks.encoders --peers .peers --photos ../shared/photos --work /tmp/encoders

`--rows images --rows texts` measures some and keeps the others' figures in the results. Set
PE_BENCH_VERBOSE to see what backends write to stderr.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.backend_process import Spec, Task
from benchmarks.comparison import compared, with_fractions
from benchmarks.random_models import (
    B16,
    CAPTIONS,
    OPEN_CLIP_NAMES,
    T16,
    Place,
    camera_files,
    exported,
    mean_tokens,
    prepare,
    prepare_clip,
    small_photos,
    weights_file,
)
from benchmarks.report import RESULTS, commit, write_report
from perception_encoder.registry import find
from perception_encoder.registry.config import image_operations, text_operations

NAME = "encoders"
CLIP = "clip/ViT-B-32"
IMAGE_BATCHES = (1, 8, 32)
TEXT_BATCHES = (8, 32, 64)
# Not all at once: ten backends of this size fit into 24 GB of memory, more would be paged out.
OURS = (
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnx", "int8"),
)
OURS_FP32 = (("torch", "fp32"), ("openvino", "fp32"), ("onnx", "fp32"))


def main() -> None:
    """Measure the rows that were asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="Folder of their environments.")
    parser.add_argument("--photos", type=Path, required=True, help="Folder of JPEG files.")
    parser.add_argument("--work", type=Path, required=True, help="For weights; kept, 3 GB.")
    parser.add_argument("--rows", action="append", choices=list(ROWS), help="Default: all.")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    place = Place(*(path.resolve() for path in (arguments.peers, arguments.photos, arguments.work)))
    place.work.mkdir(parents=True, exist_ok=True)
    os.environ["HF_ASSETS_CACHE"] = str(place.work / "graphs")  # those of random weights
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    for name in arguments.rows or ROWS:
        print(name, file=sys.stderr)
        rows[name] = ROWS[name](place, arguments.rounds) | {
            "date": datetime.now(tz=UTC).date().isoformat(),
            "commit": commit(),
        }
        write(rows)
        print(json.dumps(rows[name], indent=2))


def write(rows: Mapping[str, Any]) -> None:
    """Write all rows, those of earlier runs too, in the order of `ROWS`."""
    write_report(
        NAME,
        "images and texts to vectors on two cores, beside peers; random weights, real shapes",
        ["perception-encoder", "torch", "numpy", "pillow"],
        {"rows": {name: rows[name] for name in ROWS if name in rows}},
        "each row has its own date, commit and versions; rates are items a second",
    )


def images(place: Place, rounds: int) -> dict[str, Any]:
    """Prepared images of PE-Core-B16."""
    prepare(place, B16)
    weights = str(place.weights(B16) / "open_clip_model.safetensors")
    pixels = {"pixels": str(place.pixels(B16))}
    timm = {"model": "vit_pe_core_base_patch16_224", "weights": weights, **pixels}
    specs = [
        *open_clips(place, B16, IMAGE_BATCHES),
        *(
            Spec(
                f"timm {precision}",
                "run_timm",
                place.python("open_clip"),
                {**timm, "precision": precision},
                IMAGE_BATCHES,
            )
            for precision in ("fp32", "bf16")
        ),
        *ours(place, B16, IMAGE_BATCHES),
    ]
    row = compared(place, specs, Task("images"), rounds, agreement="images")
    config = find(B16).config
    return with_fractions(row, image_operations(config.vision, config.embed_dim))


def images_fp32(place: Place, rounds: int) -> dict[str, Any]:
    """The same in fp32: what a backend gains without giving up digits."""
    prepare(place, B16)
    specs = open_clips(place, B16, IMAGE_BATCHES)[:1]
    specs += ours(place, B16, IMAGE_BATCHES, OURS_FP32)
    row = compared(place, specs, Task("images"), rounds, agreement="images")
    config = find(B16).config
    return with_fractions(row, image_operations(config.vision, config.embed_dim))


def texts_fp32(place: Place, rounds: int) -> dict[str, Any]:
    """Captions in fp32."""
    prepare(place, B16)
    specs = open_clips(place, B16, TEXT_BATCHES)[:1] + ours(place, B16, TEXT_BATCHES, OURS_FP32)
    return compared(place, specs, Task("texts"), rounds, agreement="texts")


def compiled(place: Place, rounds: int) -> dict[str, Any]:
    """The same beside open_clip in bf16 through torch.compile, which takes minutes to compile."""
    prepare(place, B16)
    settings = {"precision": "pure_bf16", "compiled": True, "pixels": str(place.pixels(B16))}
    specs = [
        Spec(
            "open_clip bf16 compiled",
            "run_open_clip",
            place.python("open_clip"),
            {"model": OPEN_CLIP_NAMES[B16], "weights": weights_file(place, B16), **settings},
            (8,),
            "best",
        ),
        *(spec for spec in ours(place, B16, (8,)) if spec.label.endswith("bf16")),
    ]
    return compared(place, specs, Task("images"), rounds)


def texts(place: Place, rounds: int) -> dict[str, Any]:
    """Ordinary captions with PE-Core-B16, tokenizing included."""
    prepare(place, B16)
    specs = [*open_clips(place, B16, TEXT_BATCHES), *ours(place, B16, TEXT_BATCHES)]
    row = compared(place, specs, Task("texts"), rounds, agreement="texts")
    config = find(B16).config
    assert config.text is not None
    assert config.embed_dim is not None
    return with_fractions(
        row, text_operations(config.text, config.embed_dim, round(mean_tokens(config.text)))
    )


def padded_texts(place: Place, rounds: int) -> dict[str, Any]:
    """The same in all 32 columns, which open_clip always computes."""
    prepare(place, B16)
    specs = [*open_clips(place, B16, TEXT_BATCHES), *ours(place, B16, TEXT_BATCHES)]
    return compared(place, specs, Task("padded_texts"), rounds)


def one_text(place: Place, rounds: int) -> dict[str, Any]:
    """One caption with PE-Core-B16: a query."""
    prepare(place, B16)
    specs = [*open_clips(place, B16, (1,)), *ours(place, B16, (1,))]
    return compared(place, specs, Task("texts"), 3 * rounds)


def one_image(place: Place, rounds: int) -> dict[str, Any]:
    """One prepared image with PE-Core-B16."""
    prepare(place, B16)
    specs = [*open_clips(place, B16, (1,)), *ours(place, B16, (1,))]
    return compared(place, specs, Task("images"), 3 * rounds)


def jpegs(place: Place, rounds: int) -> dict[str, Any]:
    """JPEG files of 12 megapixels with PE-Core-T16, from the file to the vector."""
    prepare(place, T16)
    paths = camera_files(place)
    settings = {"model": OPEN_CLIP_NAMES[T16], "weights": weights_file(place, T16)}
    specs = [
        Spec(
            f"open_clip {precision}",
            "run_open_clip",
            place.python("open_clip"),
            {**settings, "precision": precision},
            (0, 1, 2),
            "default" if precision == "fp32" else "best",
        )
        for precision in ("fp32", "bf16")
    ]
    for preprocess in ("standard", "fast"):
        for backend, precision in OURS[1:3]:
            options = {"backend": backend, "precision": precision, "preprocess": preprocess}
            specs.append(
                Spec(
                    f"ours {preprocess} {backend} {precision}",
                    "run_perception_encoder",
                    Path(sys.executable),
                    {"model": str(place.weights(T16)), **options},
                    (4, 8),
                    "ours",
                )
            )
    return compared(place, specs, Task("files", (paths,), len(paths)), rounds)


def clip_files(place: Place, rounds: int) -> dict[str, Any]:
    """Photos of under a megapixel with CLIP ViT-B-32, from the file to the vector."""
    paths = [str(path) for path in small_photos(place)] * 4
    specs = clip_peers(place, (8, 32), with_fastembed=True)
    return compared(place, specs, Task("files", (paths,), len(paths)), rounds)


def clip_texts(place: Place, rounds: int) -> dict[str, Any]:
    """Captions with CLIP ViT-B-32, tokenizing included."""
    return compared(place, clip_peers(place, (8, 32, 64)), Task("texts"), rounds)


ROWS: dict[str, Callable[[Place, int], dict[str, Any]]] = {
    "images": images,
    "images_fp32": images_fp32,
    "compiled": compiled,
    "one_image": one_image,
    "texts": texts,
    "texts_fp32": texts_fp32,
    "padded_texts": padded_texts,
    "one_text": one_text,
    "jpegs": jpegs,
    "clip_files": clip_files,
    "clip_texts": clip_texts,
}


def open_clips(place: Place, model: str, sizes: Sequence[int]) -> list[Spec]:
    """open_clip as a user gets it, and with all weights in bf16."""
    settings = {
        "model": OPEN_CLIP_NAMES[model],
        "weights": weights_file(place, model),
        "pixels": str(place.pixels(model)),
        "captions": CAPTIONS,
    }
    # "bf16" keeps norms in fp32, which is as fast within a percent.
    forms = {"open_clip fp32": ("fp32", "default"), "open_clip bf16": ("pure_bf16", "best")}
    return [
        Spec(
            label,
            "run_open_clip",
            place.python("open_clip"),
            {**settings, "precision": precision},
            sizes,
            kind,
        )
        for label, (precision, kind) in forms.items()
    ]


def ours(
    place: Place, model: str, sizes: Sequence[int], backends: Sequence[tuple[str, str]] = OURS
) -> list[Spec]:
    """This package, with several backends and precisions."""
    settings = {"pixels": str(place.pixels(model)), "captions": CAPTIONS}
    specs = []
    for backend, precision in backends:
        is_onnx = backend == "onnx"  # which reads graphs that were exported, not weights
        folder = exported(place, model, precision) if is_onnx else place.weights(model)
        specs.append(
            Spec(
                f"ours {backend} {precision}",
                "run_perception_encoder",
                Path(sys.executable),
                {**settings, "model": str(folder), "backend": backend, "precision": precision},
                sizes,
                "ours",
            )
        )
    return specs


def clip_peers(place: Place, sizes: Sequence[int], *, with_fastembed: bool = False) -> list[Spec]:
    """CLIP ViT-B-32: sentence-transformers, Infinity, fastembed, and this package."""
    folder = prepare_clip(place)
    specs = [
        Spec(
            "sentence-transformers fp32",
            "run_sentence_transformers",
            place.python("sentence_transformers"),
            {"folder": str(folder), "captions": CAPTIONS},
            sizes,
            "default",
        ),
        Spec(
            "infinity fp32",
            "run_infinity",
            place.python("infinity"),
            {"folder": str(folder), "captions": CAPTIONS},
            sizes,
        ),
    ]
    if with_fastembed:
        onnx = {"folder": str(place.work / "clip-onnx")}
        specs.append(
            Spec("fastembed fp32", "run_fastembed", place.python("fastembed"), onnx, sizes)
        )
    return specs + [
        Spec(
            f"ours {backend} {precision}",
            "run_perception_encoder",
            Path(sys.executable),
            {"model": CLIP, "captions": CAPTIONS, "backend": backend, "precision": precision},
            sizes,
            "ours",
        )
        for backend, precision in (*OURS[:3], ("openvino", "fp32"))
    ]


if __name__ == "__main__":
    main()
