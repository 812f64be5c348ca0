"""Run a measurement in a process of its own: the caller's side, and the process's.

    python -m perception_encoder.bench.child TASK REQUEST.json REPLY.json

The reply is a file, because backends write to stdout.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from perception_encoder.errors import BackendUnavailableError, PerceptionEncoderError


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
    from perception_encoder.export.pretrained import export_pretrained

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
