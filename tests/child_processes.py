"""The environment of processes that tests start."""

import os
from pathlib import Path

_INHERITED = ("PATH", "OMP_WAIT_POLICY", "HF_ASSETS_CACHE", "COVERAGE_PROCESS_CONFIG")


def build_environment(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment without network and with that home; graphs come from the tests' cache.

    Of this process's own variables it has only what conftest.py sets, and what measures coverage.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "HOME": str(home), "HF_HUB_OFFLINE": "1", **variables}
