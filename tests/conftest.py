"""Fixtures that every test folder may use."""

import logging
import os
from pathlib import Path

import hypothesis
import pytest

# No test fails because the machine is busy.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Threads of a matrix product that wait for each other spin by default: on two cores with anything
# else running, that is ten times slower. Read when torch is imported, here and in child processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent

# Graphs that engines make are kept beside the hub's cache; those of tests, in the build folder.
os.environ.setdefault("HF_ASSETS_CACHE", str(REPOSITORY / "build" / "assets"))


@pytest.fixture(autouse=True)
def usual_logging() -> None:
    """Python's default, whatever an engine or a tool of the tests before has set."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)


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
