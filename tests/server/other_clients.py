"""Runs other people's clients in the environment that `make clients` makes for them.

Their requirements (an older numpy, another OpenCV) do not go together with this project's own.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent / "clients"
REPOSITORY = Path(__file__).resolve().parents[2]


def clients_folder() -> Path:
    """That environment, or the one that `PE_TEST_CLIENTS` names; skips where there is none."""
    return _found("bin/python")


def browser_client(name: str) -> Path:
    """The package of a client for browsers; skips where there is none."""
    return _found(f"node_modules/{name}/package.json") / "node_modules" / name


def _found(part: str) -> Path:
    folder = Path(os.environ.get("PE_TEST_CLIENTS", REPOSITORY / ".clients"))
    if not (folder / part).exists():
        message = f"no {part} in {folder}: make clients"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def run_client(script: str, *args: str, first: Sequence[str | Path] = ()) -> Any:
    """Run one of `tests/server/clients` and return the JSON that it prints.

    Args:
        script: its name.
        args: for it.
        first: folders of that environment, or others, whose packages win over the installed ones.
    """
    folder = clients_folder()
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    if first:
        environment["PYTHONPATH"] = os.pathsep.join(str(folder / one) for one in first)
    done = subprocess.run(
        [folder / "bin" / "python", SCRIPTS / script, *args],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
