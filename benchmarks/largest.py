"""Can the largest model be used without a GPU: PE-Core-G14, 2.4 B weights, 9.7 GB in float32?

Made-up weights of the real shapes in a file, as they come from a hub. Each task runs in a process
of its own, whose memory is read from /proc all the while: private memory, which must be there, and
mapped files, whose pages the system may take back.

    python -m benchmarks.largest exact openvino --work /tmp/largest --photo FILE
    python -m benchmarks.largest onnx-fp16 --model PE-Core-L14-336 --work /tmp/largest --photo FILE

`exact` comes first: the others are compared with it. What is not asked for keeps its figures.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.phases import memory, watched
from benchmarks.random_models import random_folder
from benchmarks.report import RESULTS, commit, write_report
from perception_encoder import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.export import export_pretrained
from perception_encoder.types import Embeddings

NAME = "largest"
PACKAGES = ["perception-encoder", "torch", "openvino", "onnxruntime", "onnxscript"]
TEXT = "two dogs asleep on a sofa"


@dataclass(frozen=True)
class Place:
    """Where things are."""

    work: Path
    photo: Path
    model: str

    @property
    def weights(self) -> Path:
        """A folder of ours."""
        return random_folder(self.work, self.model)

    @property
    def exact(self) -> Path:
        """The vectors of the float32 towers, "image" and "text"."""
        return self.work / f"{self.model}-exact.npz"

    def export(self, precision: str) -> Path:
        """ONNX graphs."""
        return self.work / f"{self.model}-onnx-{precision}"


def main() -> None:
    """Run the tasks of each step and add their figures to the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", nargs="+", choices=[*STEPS, *TASKS])
    parser.add_argument("--work", type=Path, required=True, help="Kept; up to 20 GB.")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--model", default="PE-Core-G14-448")
    parser.add_argument("--in-this-process", action="store_true", help="Used by this script.")
    arguments = parser.parse_args()
    place = Place(arguments.work, arguments.photo, arguments.model)
    if arguments.in_this_process:
        print(json.dumps(TASKS[arguments.step[0]](place)))
        return
    place.weights.stat()  # made by the first call
    for step in arguments.step:
        for task in STEPS.get(step, (step,)):
            print(task, flush=True)
            figures = watched_task(place, task)
            print(json.dumps(figures, indent=1), flush=True)
            record(place.model, task, figures)


def watched_task(place: Place, task: str) -> dict[str, Any]:
    """Run one task in a process; its figures, with the most memory that it held."""
    command = [sys.executable, "-m", "benchmarks.largest", task, "--in-this-process"]
    command += ["--work", str(place.work), "--photo", str(place.photo), "--model", place.model]
    return watched(command, env=os.environ | {"HF_ASSETS_CACHE": str(place.work / "cache")})


def exact(place: Place) -> dict[str, Any]:
    """Compute in float32, by torch, what the others are compared with."""
    with AutoModel.from_pretrained(
        place.weights, backend="torch", device="cpu", precision="fp32"
    ) as model:
        image, image_seconds = timed(partial(KINDS["image"], place, model))
        text, text_seconds = timed(partial(KINDS["text"], place, model))
    np.savez(place.exact, image=image, text=text)
    return {"image_seconds": image_seconds, "text_seconds": text_seconds}


def used(place: Place, kind: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Open a model and compute one thing, at first and again."""
    began = time.perf_counter()
    with AutoModel.from_pretrained(folder, device="cpu", **options) as model:
        compute = partial(KINDS[kind], place, model)
        found, _ = timed(compute)
        until_first = time.perf_counter() - began
        again = [timed(compute)[1] for _ in range(3)]
        held = memory("self")
        return {
            "precision": model.backend.precision,
            "seconds_until_first": until_first,
            "seconds_again": float(np.median(again)),
            "held_private_bytes": held.private,
            "held_mapped_bytes": held.mapped,
            "cosine_with_fp32": float((np.load(place.exact)[kind] * found).sum()),
            "torch_is_imported": "torch" in sys.modules,
        }


def openvino(place: Place, kind: str) -> dict[str, Any]:
    """Use the graphs that OpenVINO is given; they are made first, unless they are there."""
    return used(place, kind, place.weights, {"backend": "openvino", "precision": "bf16"})


def onnx(place: Place, kind: str, precision: str) -> dict[str, Any]:
    """Use an export."""
    return used(place, kind, place.export(precision), {})


def export(place: Place, precision: Any) -> dict[str, Any]:
    """Export to ONNX, as `pe export` does: what was written is compared with the towers."""
    folder = place.export(precision)
    drifts, seconds = timed(partial(export_pretrained, place.weights, folder, precision=precision))
    return {
        "seconds": seconds,
        "file_bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "drift": {kind: asdict(drift) for kind, drift in drifts.items()},
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def record(model: str, task: str, figures: dict[str, Any]) -> None:
    """Put figures into the report beside what is there."""
    path = RESULTS / f"{NAME}.json"
    before = json.loads(path.read_bytes())["models"] if path.exists() else {}
    dated = {**figures, "date": datetime.now(tz=UTC).date().isoformat(), "commit": commit()}
    models = {**before, model: {**before.get(model, {}), task: dated}}
    question = "time and memory of the largest models on a CPU, random weights in a float32 file"
    write_report(NAME, question, PACKAGES, {"models": models})


def _image(place: Place, model: EmbeddingModel) -> Embeddings:
    return model.embed_image(place.photo)


def _text(_: Place, model: EmbeddingModel) -> Embeddings:
    return model.embed_text(TEXT)


KINDS: dict[str, Callable[[Place, EmbeddingModel], Embeddings]] = {
    "image": _image,
    "text": _text,
}
TASKS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "exact": exact,
    "openvino, text, graph made": partial(openvino, kind="text"),
    "openvino, text, from the cache": partial(openvino, kind="text"),
    "openvino, image, graph made": partial(openvino, kind="image"),
    "openvino, image, from the cache": partial(openvino, kind="image"),
}
STEPS: dict[str, Sequence[str]] = {"openvino": [name for name in TASKS if "openvino" in name]}
for stored in ("fp32", "fp16", "int8"):
    tasks = {
        f"onnx {stored}, export": partial(export, precision=stored),
        f"onnx {stored}, text": partial(onnx, kind="text", precision=stored),
        f"onnx {stored}, image": partial(onnx, kind="image", precision=stored),
    }
    TASKS |= tasks
    STEPS[f"onnx-{stored}"] = list(tasks)


if __name__ == "__main__":
    main()
