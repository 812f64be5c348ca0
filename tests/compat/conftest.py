"""A fixture for tests that need Roboflow's own package."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from compat.original_package import ORIGINAL, run_python


@pytest.fixture(scope="session")
def under_original() -> Callable[..., str]:
    """Run code where `import inference_models` is Roboflow's; returns what it printed.

    Where that package was not installed the test is skipped, but never in CI.
    """
    if not (ORIGINAL / "inference_models").is_dir():
        message = f"no {ORIGINAL}; `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    def run(code: str, *, folder: Path, expect: int = 0) -> str:
        done = run_python(code, folder=folder, path=[ORIGINAL])
        assert done.returncode == expect, done.stderr
        return done.stdout if expect == 0 else done.stderr

    return run
