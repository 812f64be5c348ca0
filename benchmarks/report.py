"""What every benchmark's JSON says of where its figures come from."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_report(
    name: str, question: str, packages: Sequence[str], figures: Mapping[str, Any], note: str = ""
) -> Path:
    """Write `results/NAME.json`: the question, the machine, versions, commit and figures."""
    report = {
        "question": question,
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": machine(),
        "versions": {package: importlib.metadata.version(package) for package in packages}
        | {"python": platform.python_version()},
        "commit": commit(),
        **({"note": note} if note else {}),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


def machine() -> str:
    """Return the processor's kind, its cores that may be used, and what speeds vectors up."""
    flags = ""
    if Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    extra = [
        name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name} " in flags
    ]
    parts = [platform.machine(), f"{len(os.sched_getaffinity(0))} cores", *extra, platform.system()]
    return ", ".join(parts)


def commit() -> str:
    """Return the commit that was measured, marked where the working tree differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS.parent.parent), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "src") else "")
