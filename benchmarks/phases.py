"""Benchmarks of an index whose phases are processes of their own, so that each has its own memory.

A benchmark calls `run_phases` from its `main`; its functions `phase_NAME(folder, num_rows)` return
figures.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_phases(
    module: str,
    description: str | None,
    phases: Sequence[str],
    num_rows: int,
    limits: Mapping[str, float] | None = None,
) -> tuple[dict[str, Any], argparse.Namespace]:
    """Run every phase, and return their figures and the arguments of the command line.

    In the process of a phase its figures are printed, and the process ends.

    Args:
        module: of the benchmark; it has the functions of the phases.
        description: of the benchmark; its first line is shown by --help.
        phases: names, in their order.
        num_rows: default of --rows.
        limits: by phase, the most seconds; one that takes longer is left out, which is said.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="Made, and deleted at the end.")
    parser.add_argument("--rows", type=int, default=num_rows)
    parser.add_argument("--note", default="", help="What else the machine was doing.")
    parser.add_argument("--keep", action="store_true", help="Keep the folder.")
    parser.add_argument("--phase", choices=phases, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        phase = getattr(sys.modules["__main__"], f"phase_{arguments.phase}")
        figures = phase(arguments.folder, arguments.rows)
        figures["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(figures))
        raise SystemExit
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    found: dict[str, Any] = {}
    for phase in phases:
        found[phase] = _run(module, phase, arguments, (limits or {}).get(phase))
        print(phase, json.dumps(found[phase]), flush=True)
    if not arguments.keep:
        shutil.rmtree(arguments.folder)
    return found, arguments


def _run(
    module: str, phase: str, arguments: argparse.Namespace, limit: float | None
) -> dict[str, Any]:
    command = [sys.executable, "-m", module, "--folder", str(arguments.folder)]
    command += ["--rows", str(arguments.rows), "--phase", phase]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"not_finished_after_seconds": limit}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
