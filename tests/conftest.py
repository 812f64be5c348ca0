"""Fixtures that every test folder may use."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
