"""Fixtures that every test folder may use."""

import gc
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

from perception_encoder.errors import BackendUnavailableError

# No test fails because the machine is busy, nor by chance: the examples are the same in every run.
# `make fuzz` looks for new ones, and for more than CI.
EXAMPLES = os.environ.get("PE_FUZZ_EXAMPLES")
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=EXAMPLES is None,
    max_examples=int(EXAMPLES or 25),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")

# Threads of a matrix product that wait for each other spin by default: on two cores with anything
# else running, that is ten times slower. Read when torch is imported, here and in child processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# With this package OpenVINO reports its use from forked processes, unless the package's own code is
# the first to import it, and hides this. Some tests import OpenVINO themselves.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# A run in the background of a shell ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent

# Graphs that backends make are kept beside the hub's cache; those of tests, in the build folder.
os.environ.setdefault("HF_ASSETS_CACHE", str(REPOSITORY / "build" / "assets"))


@pytest.fixture(autouse=True)
def usual_logging() -> None:
    """Python's default, whatever a backend, a tool or `pe serve` of the tests before has set."""
    logging.disable(logging.NOTSET)
    root = logging.getLogger()
    root.disabled = False
    root.filters.clear()
    if root.level != logging.WARNING:
        root.setLevel(logging.WARNING)
    for name, logger in logging.Logger.manager.loggerDict.items():
        if name.partition(".")[0] == "perception_encoder" and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.handlers.clear()
            logger.filters.clear()
            if logger.level != logging.NOTSET:
                logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where `write_clip` keeps what it has encoded: the workers of xdist share the run's folder."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    os.environ["PE_TEST_CLIPS"] = str(folder / "clips")


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Real photos, which are not part of the repository: `PE_TEST_PHOTOS`, or shared/photos beside.

    Where there are none the test is skipped, but never in CI.
    """
    folder = Path(os.environ.get("PE_TEST_PHOTOS", REPOSITORY.parent / "shared" / "photos"))
    found = sorted(path for path in folder.glob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    if not found:
        message = f"no photos in {folder}; set PE_TEST_PHOTOS"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def exiftool() -> Callable[..., Any]:
    """Run exiftool, which writes and reads metadata, with UTF-8 arguments; return what it prints.

    Where it is not installed (Debian: libimage-exiftool-perl) the test is skipped, never in CI.
    """
    program = shutil.which("exiftool")
    if program is None:
        message = "exiftool is not installed (libimage-exiftool-perl)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    def run(*arguments: str | Path, as_json: bool = False) -> Any:
        command = [program, "-charset", "UTF8", "-charset", "IPTC=UTF8", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed = done.stdout.decode()
        assert done.returncode == 0, printed
        return json.loads(printed) if as_json else printed

    return run


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all processes of this run share; see onnx_exports.py."""
    if "PE_TEST_SHARED" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="pe-tests-")
        os.environ["PE_TEST_SHARED"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="session")
def exporting_once() -> Iterator[None]:
    """Export each model to ONNX once in this run: for modules that export the same again."""
    if not HAS_TORCH:
        yield
        return
    from onnx_exports import exporting_once

    with exporting_once():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no cycles in what is imported and collected, neither now nor ever after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what a test has printed where it is no Unicode: xdist sends reports as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


# Where torch is not installed (`make test-without-torch`), tests that cannot do without it are
# skipped and say so; where it is, none of this happens.
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> Generator[None, pytest.Module, pytest.Module]:
    module = yield
    return module if HAS_TORCH else _WithoutTorch.from_parent(parent, path=module_path)


class _WithoutTorch(pytest.Module):
    """A module of tests that is skipped where it imports a package that is not there."""

    def _getobj(self) -> ModuleType:
        try:
            return super()._getobj()
        except self.CollectError as err:
            missing = re.search(r"ModuleNotFoundError: (No module named '.+')", str(err))
            if missing is None:
                raise
            raise pytest.skip.Exception(missing[1], allow_module_level=True) from err


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    with _skipped_without_a_backend():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    with _skipped_without_a_backend():
        return (yield)


@contextmanager
def _skipped_without_a_backend() -> Iterator[None]:
    try:
        yield
    except BackendUnavailableError as err:
        if HAS_TORCH or "no backend is installed" not in str(err):
            raise
        pytest.skip("runs the torch towers")
