"""The environment of processes that tests start."""

import os
from pathlib import Path

TESTS = Path(__file__).parent
"""On the search path of children whose script uses modules of tests."""

_INHERITED = (
    "PATH", "OMP_WAIT_POLICY", "HF_ASSETS_CACHE", "PE_TEST_SHARED", "COVERAGE_PROCESS_CONFIG"
)  # fmt: skip


def build_environment(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment without network and with that home; graphs come from the tests' cache.

    Of this process's own variables it has only what conftest.py sets, and what measures coverage.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "HOME": str(home), "HF_HUB_OFFLINE": "1", **variables}
