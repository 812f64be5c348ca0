"""Run a measurement in a process of its own: the caller's side, and the process's.

    python -m perception_encoder.bench.child TASK REQUEST.json REPLY.json

The reply is a file, because backends write to stdout. Nothing is downloaded: a model that is not on
the disk is measured with random weights of its shapes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from perception_encoder.backends.samples import load_drawings
from perception_encoder.checkpoints import is_cached, locate
from perception_encoder.errors import BackendUnavailableError, PerceptionEncoderError
from perception_encoder.registry import ModelConfig, ModelEntry

_BYTES_OF_A_WEIGHT: Final = 4  # float32: what is read, or made up
_CAMERA_SIZE: Final = (4000, 3000)
_CAMERA_TILE: Final = 500
_CAMERA_NOISE: Final = 6  # levels: what a sensor adds, and what makes such files 3 to 5 MB


def run_task(
    task: str, request: Mapping[str, Any], folder: Path, *, graphs: Path | None = None
) -> Any:
    """Run a task of this module and return its reply.

    Args:
        task: "measure", "measure_edge", "ceilings", "make_weights" or "export".
        request: plain data for the function of that name.
        folder: for the files that the two processes exchange.
        graphs: where backends keep what they make of weights; None is their usual place.

    Raises:
        BackendUnavailableError: what the process said, or how it died.
    """
    asked, answered = folder / "request.json", folder / "reply.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    answered.unlink(missing_ok=True)
    command = [sys.executable, "-m", __name__, task, str(asked), str(answered)]
    done = subprocess.run(
        command,
        # Graphs that backends make of random weights are kept no longer than the weights.
        env=os.environ | ({"HF_ASSETS_CACHE": str(graphs)} if graphs else {}),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if not answered.exists():
        raise BackendUnavailableError(_death(done.returncode, done.stderr))
    reply = json.loads(answered.read_text(encoding="utf-8"))
    if "error" in reply:
        raise BackendUnavailableError(reply["error"])
    return reply["value"]


def _death(returncode: int, stderr: str) -> str:
    if returncode == -signal.SIGKILL:
        return "the process was killed, most likely because memory ran out"
    if returncode < 0:
        return f"the process died of signal {-returncode}"
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with {returncode}"


def measure(request: dict[str, Any]) -> dict[str, Any] | None:
    """See `measure.measure`."""
    from perception_encoder.bench.measure import BenchJob
    from perception_encoder.bench.measure import measure as measured

    figures = measured(BenchJob(**request))
    return None if figures is None else asdict(figures)


def measure_edge(request: dict[str, Any]) -> dict[str, Any] | None:
    """See `edge_measure.measure_edge`; within limits, which what is imported counts towards too."""
    from perception_encoder.bench.edge import Limits, impose

    impose(Limits(**request["limits"]))
    from perception_encoder.bench.measure import EdgeJob
    from perception_encoder.bench.measure import measure_edge as measured

    figures = measured(EdgeJob(**request["job"]))
    return None if figures is None else asdict(figures)


def ceilings(request: dict[str, Any]) -> dict[str, float | None]:
    """Operations a second by precision; see `device_figures.matrix_rate`."""
    from perception_encoder.backends.torch_devices import matrix_rate

    return {
        precision: matrix_rate(precision, device=request["device"])
        for precision in request["precisions"]
    }


def make_weights(request: dict[str, Any]) -> None:
    """Save a registered model with random weights as a folder."""
    from perception_encoder.auto import AutoModel

    model = AutoModel.from_pretrained(
        request["model"], random_weights=True, backend="torch", device="cpu", precision="fp32"
    )
    with model:
        model.save_pretrained(request["folder"])


def export(request: dict[str, Any]) -> None:
    """Write a backend's graphs; see `export_pretrained`."""
    from perception_encoder.export import export_pretrained

    export_pretrained(
        request["model"],
        request["folder"],
        backend=request["backend"],
        precision=request["precision"],
        local_files_only=True,
    )


_TASKS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    task.__name__: task for task in (measure, measure_edge, ceilings, make_weights, export)
}


def main(task: str, asked: str, answered: str) -> None:
    """Do a task and write the reply, or what stood in its way."""
    reply: dict[str, Any]
    try:
        reply = {"value": _TASKS[task](json.loads(Path(asked).read_text(encoding="utf-8")))}
    except PerceptionEncoderError as err:
        reply = {"error": str(err)}
    Path(answered).write_text(json.dumps(reply), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])


@dataclass(frozen=True)
class BenchSubject:
    """A model and where it is read from; `is_export` where it has graphs in place of weights."""

    name: str
    source: str
    config: ModelConfig
    entry: ModelEntry | None
    has_random_weights: bool = False
    is_export: bool = False


def find_subject(name: str, entry: ModelEntry | None, place: Path) -> BenchSubject:
    """Find a model's weights, or make some up in a folder.

    Raises:
        BackendUnavailableError: no weights can be made up here.
        CheckpointError: the path is no model's.
    """
    if entry is None:
        checkpoint = locate(name, local_files_only=True)
        is_export = checkpoint.graphs is not None
        return BenchSubject(name, name, checkpoint.config, checkpoint.entry, is_export=is_export)
    if is_cached(entry) is not None:
        return BenchSubject(entry.id, entry.id, entry.config, entry)
    needed, memory = _BYTES_OF_A_WEIGHT * entry.num_parameters, _memory_bytes()
    if memory is not None and needed > memory:
        raise BackendUnavailableError(
            f"its weights take {needed / 2**30:.1f} GiB, and this machine has "
            f"{memory / 2**30:.1f} GiB of memory"
        )
    source = place / "model"
    run_task("make_weights", {"model": entry.id, "folder": str(source)}, place)
    return BenchSubject(entry.id, str(source), entry.config, entry, has_random_weights=True)


def is_installed(package: str) -> bool:
    """Tell whether a package is here, without importing it."""
    return importlib.util.find_spec(package) is not None


def _memory_bytes() -> int | None:
    """Return the machine's memory, or None where the system does not tell."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write_camera_image(path: Path) -> None:
    """Write a JPEG file of 12 megapixels: many drawings and a sensor's noise, quality 90."""
    width, height = _CAMERA_SIZE
    places = [(x, y) for y in range(0, height, _CAMERA_TILE) for x in range(0, width, _CAMERA_TILE)]
    image = Image.new("RGB", _CAMERA_SIZE)
    for place, data in zip(places, load_drawings(len(places)), strict=True):
        tile = Image.open(BytesIO(data)).convert("RGB").resize((_CAMERA_TILE, _CAMERA_TILE))
        image.paste(tile, place)
    noise = np.random.default_rng(0).normal(0, _CAMERA_NOISE, (height, width, 1))
    levels = (np.asarray(image) + noise.astype(np.float32)).clip(0, 255).astype(np.uint8)
    Image.fromarray(levels).save(path, "JPEG", quality=90)
