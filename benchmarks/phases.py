"""Benchmarks of an index whose phases are processes of their own, so that each has its own memory.

A benchmark calls `run_phases` from its `main`; its functions `phase_NAME(folder, num_rows)` return
figures. The memory of every process is read from /proc all the while: private memory, which must be
there, and mapped files, whose pages the system may take back.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Memory:
    """Bytes of a process that are in memory."""

    private: int
    mapped: int


def memory(pid: int | str) -> Memory:
    """What a process has in memory now; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return Memory(0, 0)
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if "Rss" in line}
    return Memory(sizes.get("RssAnon", 0), sizes.get("RssFile", 0))


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
    parser = make_parser(description, phases)
    parser.add_argument("--rows", type=int, default=num_rows)
    arguments = parser.parse_args()
    run_one_phase(arguments)
    return run_all(module, phases, arguments, arguments.rows, limits), arguments


def make_parser(description: str | None, phases: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser of what all of these benchmarks are told, except the number of rows."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="Made, and deleted at the end.")
    parser.add_argument("--note", default="", help="What else the machine was doing.")
    parser.add_argument("--keep", action="store_true", help="Keep the folder.")
    parser.add_argument("--phase", choices=phases, help=argparse.SUPPRESS)
    parser.add_argument("--phase-rows", type=int, help=argparse.SUPPRESS)
    return parser


def run_one_phase(arguments: argparse.Namespace) -> None:
    """In the process of a phase: run it, print its figures, and end the process."""
    if arguments.phase:
        phase = getattr(sys.modules["__main__"], f"phase_{arguments.phase}")
        figures = phase(arguments.folder, arguments.phase_rows)
        figures["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(figures))
        raise SystemExit


def run_all(
    module: str,
    phases: Sequence[str],
    arguments: argparse.Namespace,
    num_rows: int,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Run every phase with a number of rows, and return their figures by name."""
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    found: dict[str, Any] = {}
    for phase in phases:
        command = [sys.executable, "-m", module, "--folder", str(arguments.folder)]
        command += ["--phase", phase, "--phase-rows", str(num_rows)]
        found[phase] = watched(command, (limits or {}).get(phase))
        print(phase, json.dumps(found[phase]), flush=True)
    if not arguments.keep:
        shutil.rmtree(arguments.folder)
    return found


def watched(
    command: Sequence[str], limit: float | None = None, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a process; what its last line tells, with the most memory that it held.

    Args:
        command: prints a line of JSON at the end.
        limit: the most seconds. A process that takes longer is ended, which is said.
        env: the environment; None for this process's.
    """
    started = time.monotonic()
    process = subprocess.Popen(list(command), stdout=subprocess.PIPE, text=True, env=env)
    most = Memory(0, 0)
    while process.poll() is None:
        now = memory(process.pid)
        most = Memory(max(most.private, now.private), max(most.mapped, now.mapped))
        if limit is not None and time.monotonic() - started > limit:
            process.kill()
            process.wait()
            return {
                "not_finished_after_seconds": limit,
                "peak_private_bytes": most.private,
                "peak_mapped_bytes": most.mapped,
            }
        time.sleep(POLL_SECONDS)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    told: dict[str, Any] = {"exit_code": process.returncode}
    if not process.returncode:
        told = json.loads(lines[-1])
    return {**told, "peak_private_bytes": most.private, "peak_mapped_bytes": most.mapped}
