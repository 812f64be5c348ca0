"""Adapters in their real libraries, in a process of their own; docs/guides/adapters.md runs.

So does the recipe of mteb in docs/guides/recipes.md, because mteb needs sentence-transformers too.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from child_processes import build_environment
from documentation.blocks import REPOSITORY, blocks_of

from perception_encoder import AutoModel

ADAPTERS = REPOSITORY / ".adapters"
GALLERY = REPOSITORY / "src" / "perception_encoder" / "data" / "gallery"
PAGE = "docs/guides/adapters.md"
RECIPES = "docs/guides/recipes.md"
LIBRARIES = ("langchain", "llama_index", "chroma", "lancedb", "sentence_transformers", "mteb")
CHECKS = Path(__file__).with_name("adapter_checks.py")

# Importing these libraries for the first time takes a busy machine minutes.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and pe-nano under the name that the page gives."""
    root = tmp_path_factory.mktemp("adapters")
    for name in ("cat", "castle", "red-heart"):
        shutil.copy(GALLERY / f"{name}.webp", root)
    with AutoModel.from_pretrained("pe-nano", device="cpu") as nano:
        nano.save_pretrained(root / "PE-Core-B16-224")
    return root


@pytest.fixture(scope="module")
def check(folder: Path) -> Callable[[dict[str, str]], dict[str, str]]:
    """Run checks, each with a block, in one process where these libraries can be imported.

    Where they were not installed the test is skipped, but never in CI.
    """
    if not (ADAPTERS / "chromadb").is_dir():
        message = f"no {ADAPTERS}; `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    def run(blocks: dict[str, str]) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(CHECKS), json.dumps(blocks)],
            cwd=folder,
            text=True,
            capture_output=True,
            check=False,
            timeout=500,
            env=build_environment(folder, ANONYMIZED_TELEMETRY="False", PYTHONPATH=str(ADAPTERS)),
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads((folder / "outcomes.json").read_text())

    return run


@pytest.fixture(scope="module")
def outcomes(check: Callable[[dict[str, str]], dict[str, str]]) -> dict[str, str]:
    """What came of the check of each library."""
    blocks = {name: block_about(name) for name in LIBRARIES[:-2]}
    (mteb,) = [b.text for b in blocks_of(RECIPES) if "import mteb\n" in b.text]
    return check({**blocks, "sentence_transformers": "", "mteb": mteb})


def block_about(word: str) -> str:
    """The block of the page that imports our module of this name."""
    (found,) = [
        block.text
        for block in blocks_of(PAGE)
        if f"perception_encoder.integrations.{word}" in block.text
    ]
    return found


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_adapter_does_what_its_library_asks(library, outcomes):
    assert outcomes[library] == ""


def test_a_collection_of_chroma_is_opened_again_and_keeps_to_its_weights(check, outcomes):
    assert outcomes["chroma"] == ""
    assert check({"chroma_reopened": ""}) == {"chroma_reopened": ""}
