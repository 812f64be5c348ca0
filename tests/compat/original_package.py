"""Runs code with Roboflow's own package, which `make test` installs into a folder."""

import os
import subprocess
import sys
from pathlib import Path

from child_processes import build_environment

REPOSITORY = Path(__file__).resolve().parents[2]
ORIGINAL = REPOSITORY / ".original"
METHODS = ["from_pretrained", "describe_model", "describe_model_package"]
MODULES = ["inference_models", "inference_models.developer_tools"]
OURS = REPOSITORY / "compat" / "inference_models" / "src"


def run_python(code: str, *, folder: Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run code in a process that looks for modules in these folders first."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        env=build_environment(folder, PYTHONPATH=os.pathsep.join(map(str, path))),
    )
