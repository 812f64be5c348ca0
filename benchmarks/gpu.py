"""How near to a GPU's own rate do pictures and texts become vectors, and how do peers fare there?

Each engine runs in a process of its own, all of a model are measured in turns as in `encoders.py`,
each at its best batch; the card's rate of matrix products is measured right after the rounds.
Weights and pictures are made up: neither changes the speed. Peers' pictures are normalised and on
the card before the time is taken; ours begin as uint8 in this machine's memory.

    python -m benchmarks.gpu --work /tmp/gpu                        # all in this environment
    python -m benchmarks.gpu --work /tmp/gpu --peers .peers         # after `make peers`

Peers that are not installed are left out and named. `--model` measures some, and keeps the others'
figures in the results.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import compared, with_fractions
from benchmarks.engine_process import Spec, Task
from benchmarks.made_models import CAPTIONS, Place
from benchmarks.report import RESULTS, commit, write_report
from perception_encoder.registry import find
from perception_encoder.registry.operations import image_operations

NAME = "gpu"
MODELS = {
    "PE-Core-B16-224": ("PE-Core-B-16", "vit_pe_core_base_patch16_224"),
    "PE-Core-L14-336": ("PE-Core-L-14-336", "vit_pe_core_large_patch14_336"),
    "PE-Core-G14-448": ("PE-Core-bigG-14-448", "vit_pe_core_gigantic_patch14_448"),
}
# All engines of a model lie on the card at once: of the largest, 80 GB do not hold more than these.
LARGEST = "PE-Core-G14-448"
NOT_OF_THE_LARGEST = ("open_clip bf16", "timm bf16", "ours fp32")
BATCHES = {
    "PE-Core-B16-224": (1, 64, 128, 256, 512),
    "PE-Core-L14-336": (1, 32, 64, 128),
    "PE-Core-G14-448": (1, 16, 32, 64),
}
TEXT_BATCHES = (1, 64, 256)


def main() -> None:
    """Measure the models that were asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="For made-up pictures.")
    parser.add_argument("--peers", type=Path, help="Folder of peers' environments.")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="Default: all.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", action="append", type=int, help="Default: up to what fits.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=NAME, help="Name of the file in results.")
    arguments = parser.parse_args()
    place = Place(arguments.peers or Path(), Path(), arguments.work.resolve())
    place.work.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{arguments.out}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}
    for model in arguments.model or MODELS:
        print(model, file=sys.stderr)
        batches = tuple(arguments.batch or BATCHES[model])
        rows[model] = {
            "pictures": pictures(place, model, arguments.device, batches, arguments.rounds),
            "texts": texts(place, model, arguments.device, arguments.rounds),
            "date": datetime.now(tz=UTC).date().isoformat(),
            "commit": commit(),
        }
        write_report(
            arguments.out,
            "pictures and texts to vectors on a GPU, beside peers; made-up weights, real shapes",
            ["perception-encoder", "torch", "numpy"],
            {"card": card(arguments.device), "models": rows},
            "each model has its own date and commit; rates are items a second",
        )
        print(json.dumps(rows[model], indent=2))


def pictures(
    place: Place, model: str, device: str, batches: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Prepared pictures, every engine at its best batch; and one picture alone."""
    side = find(model).config.vision.image_size
    pixels = noise(place, side, max(batches))
    specs = engines(place, model, device, pixels, batches)
    row = compared(place, specs, Task("pictures"), rounds)
    config = find(model).config
    return with_fractions(row, image_operations(config.vision, config.embed_dim))


def texts(place: Place, model: str, device: str, rounds: int) -> dict[str, Any]:
    """Ordinary captions, tokenizing included."""
    specs = engines(place, model, device, "", TEXT_BATCHES)
    return compared(place, [s for s in specs if s.runner != "run_timm"], Task("texts"), rounds)


def engines(
    place: Place, model: str, device: str, pixels: str, batches: Sequence[int]
) -> list[Spec]:
    """Everything that is compared, with all cores to feed the card."""
    specs = [*peers(place, model, device, pixels, batches), *ours(model, device, pixels, batches)]
    return [
        replace(spec, num_threads=len(os.sched_getaffinity(0)))
        for spec in specs
        if model != LARGEST or spec.label not in NOT_OF_THE_LARGEST
    ]


def peers(place: Place, model: str, device: str, pixels: str, batches: Sequence[int]) -> list[Spec]:
    """open_clip as a user gets it, under autocast and at its best; timm at its best."""
    open_clip, timm = MODELS[model]
    forms: dict[str, dict[str, Any]] = {
        "open_clip fp32": {"precision": "fp32"},
        "open_clip autocast bf16": {"precision": "fp32", "autocast": True},
        "open_clip bf16": {"precision": "pure_bf16"},
        "open_clip compiled bf16": {"precision": "pure_bf16", "compiled": True},
    }
    python = place.python("open_clip") if place.peers != Path() else Path(sys.executable)
    common = {"pixels": pixels, "device": device}
    specs = [
        Spec(
            label,
            "run_open_clip",
            python,
            {"model": open_clip, "captions": CAPTIONS, **common, **form},
            batches,
            {"open_clip fp32": "default", "open_clip compiled bf16": "best"}.get(label, ""),
        )
        for label, form in forms.items()
    ]
    for label, compiled in {"timm bf16": False, "timm compiled bf16": True}.items():
        settings = {"model": timm, "precision": "bf16", "compiled": compiled, **common}
        specs.append(Spec(label, "run_timm", python, settings, batches))
    return specs


def ours(model: str, device: str, pixels: str, batches: Sequence[int]) -> list[Spec]:
    """This package, as it opens a model on a GPU, and compiled."""
    settings = {
        "model": model,
        "pixels": pixels,
        "captions": CAPTIONS,
        "device": device,
        "backend": "torch",
    }
    forms: dict[str, dict[str, Any]] = {
        "ours fp32": {"precision": "fp32"},
        "ours bf16": {"precision": "bf16"},
        "ours compiled bf16": {"precision": "bf16", "compile": True},
    }
    python = Path(sys.executable)
    return [
        Spec(label, "run_perception_encoder", python, {**settings, **form}, batches, "ours")
        for label, form in forms.items()
    ]


def noise(place: Place, side: int, count: int) -> str:
    """A file of made-up pictures, (count, side, side, 3) uint8."""
    path = place.work / f"noise-{side}-{count}.npy"
    if not path.exists():
        rng = np.random.default_rng(0)
        np.save(path, rng.integers(0, 256, (count, side, side, 3), np.uint8))
    return str(path)


def card(device: str) -> str:
    """What torch calls the device."""
    import torch

    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return device


if __name__ == "__main__":
    main()
