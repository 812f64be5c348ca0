"""The blocks of apis.md that need other people's clients, in their environment."""

import os
import subprocess

import pytest
from documentation.blocks import blocks_of
from server.other_clients import clients_folder

PAGE = "docs/guides/apis.md"

# The package's __init__ imports torch and autofaiss, which the client does not use.
WITHOUT_ITS_INIT = """
import sys, types
sys.modules["clip_retrieval"] = types.ModuleType("clip_retrieval")
sys.modules["clip_retrieval"].__path__ = [{folder!r} + "/clip-retrieval/clip_retrieval"]
"""


@pytest.mark.parametrize(
    ("package", "first"),
    [("inference_sdk", ""), ("clip_retrieval", WITHOUT_ITS_INIT), ("cohere", ""), ("ollama", "")],
)
def test_the_block_of_a_client_runs(package, first, reader, served):
    (block,) = [block for block in blocks_of(PAGE) if f"from {package}" in block.text]
    folder = str(clients_folder())
    code = first.format(folder=folder) + served(block.text, reader.folder)
    done = subprocess.run(
        [os.path.join(folder, "bin", "python"), "-c", code], cwd=reader.folder,
        env=reader.environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
