"""Runs scripts where Roboflow's execution engine is installed, which `make workflows` does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from child_processes import build_environment

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
# What is installed for the backend comes before what it shares with Roboflow's other package.
FOLDERS = [REPOSITORY / ".workflows", HERE / "stand_ins", REPOSITORY / ".original"]


def start_engine(
    script: str, *args: str | Path, folder: Path, first: str | None = None
) -> subprocess.Popen[str]:
    """Start a script in a folder; skips where the backend is not installed, but never in CI.

    Args:
        script: one that lies here.
        args: for it.
        folder: where it runs.
        first: a folder beside the backend's packages whose own win over them.
    """
    if not (FOLDERS[0] / ".installed").exists():
        message = f"no {FOLDERS[0]}; `make workflows` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folders = FOLDERS if first is None else [FOLDERS[0] / first, *FOLDERS]
    return subprocess.Popen(
        [sys.executable, HERE / script, *args],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=build_environment(
            folder,
            MPLCONFIGDIR=str(folder),
            PYTHONPATH=os.pathsep.join(map(str, folders)),
            WORKFLOWS_PLUGINS="perception_encoder.integrations.workflows",
        ),
    )
