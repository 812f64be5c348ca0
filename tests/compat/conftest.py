"""Fixtures for tests that need Roboflow's own package."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compat.original_package import METHODS, MODULES, ORIGINAL, run_python


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


@pytest.fixture(scope="session")
def original(
    under_original: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the original says of itself, in one process: its import takes seconds."""
    code = (
        "import importlib, inspect, json\n"
        "import inference_models\n"
        "from inference_models import AutoModel, BackendType, Quantization, errors\n"
        "found = {n: c.__mro__[1].__name__ for n, c in vars(errors).items() if inspect.isclass(c)\n"
        "         and c.__module__ == errors.__name__}\n"
        "def parameters(name):\n"
        "    found = inspect.signature(getattr(AutoModel, name)).parameters.values()\n"
        "    return [[p.name, p.kind] for p in found]\n"
        "def names(module):\n"
        "    m = importlib.import_module(module)\n"
        "    return [*getattr(m, 'OPTIONAL_IMPORTS', {}), *(n for n, v in vars(m).items()\n"
        "            if 'inference_models' in str(getattr(v, '__module__', '')))]\n"
        "print(json.dumps({\n"
        "    'file': inference_models.__file__,\n"
        "    'errors': found,\n"
        "    'choices': [[c.value for c in e] for e in (BackendType, Quantization)],\n"
        f"    'parameters': {{name: parameters(name) for name in {METHODS}}},\n"
        f"    'names': {{name: names(name) for name in {MODULES}}},\n"
        "}))"
    )
    printed = under_original(code, folder=tmp_path_factory.mktemp("original"))
    found: dict[str, Any] = json.loads(printed)
    return found
