"""What every benchmark's JSON says of where its figures come from."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_report(
    name: str,
    question: str,
    packages: Sequence[str],
    figures: Mapping[str, Any],
    note: str = "",
    *,
    folder: Path = RESULTS,
) -> Path:
    """Write `NAME.json` into a folder: the question, the machine, versions, commit and figures."""
    report = {
        "question": question,
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(packages) | {"python": platform.python_version()},
        "commit": commit(),
        **({"note": note} if note else {}),
        **figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine() -> str:
    """Return the processor's kind, its cores that may be used, and what speeds vectors up."""
    flags = ""
    if Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    extra = [name for name in known if f" {name} " in flags]
    parts = [platform.machine(), f"{len(os.sched_getaffinity(0))} cores", *extra, platform.system()]
    return ", ".join(parts)


def commit() -> str:
    """Return the commit that was measured, marked where the working tree differs from it.

    A copy of the tree without its history has none: "unknown".
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS.parent.parent), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "src") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
