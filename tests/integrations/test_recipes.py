"""The recipes of docs/guides/recipes.md, in their real libraries against a real server.

Open WebUI is an application and is not installed: its request is made as its source makes it. The
recipe of mteb is run by `test_adapters.py`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest
from child_processes import build_environment
from documentation.blocks import REPOSITORY, Block, blocks_of
from integrations.postgres import serving_postgres
from server.other_clients import browser_client
from server.serving import data_uri, running

from perception_encoder import AutoModel
from perception_encoder.server import ServerSettings
from perception_encoder.server.options import ModelSettings

PAGE = "docs/guides/recipes.md"
ADAPTERS = REPOSITORY / ".adapters"
GALLERY = REPOSITORY / "src" / "perception_encoder" / "data" / "gallery"
CHECKS = Path(__file__).with_name("recipe_checks.py")
NAME = "PE-Core-B16-224"
ADDRESS = "127.0.0.1:9001"
CLOSE = 2e-5

RECIPES = {
    "langchain": "langchain_openai",
    "llama_index": "llama_index.embeddings.openai_like",
    "haystack": "haystack",
    "litellm": "litellm",
    "dspy": "dspy",
    "agno": "agno.vectordb",
    "chroma": "chromadb",
    "lancedb": "lancedb.embeddings",
    "qdrant": "qdrant_client",
    "qdrant_edge": "qdrant_edge",
    "pgvector": "pgvector.psycopg",
}
"""A module that only this recipe imports."""
SHARED = ("def data_uri", "model.embed_images(paths)")
"""What is found in the blocks that recipes build upon."""
QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@pytest.fixture(scope="module")
def nano():
    with AutoModel.from_pretrained("pe-nano", device="cpu") as model:
        yield model


@pytest.fixture(scope="module")
def folder(tmp_path_factory, nano):
    """Images, and pe-nano under the name that the page gives."""
    root = tmp_path_factory.mktemp("recipes")
    for name in ("cat", "castle", "red-heart"):
        shutil.copy(GALLERY / f"{name}.webp", root)
    nano.save_pretrained(root / NAME)
    return root


@pytest.fixture(scope="module")
def server():
    """pe-nano under the names that the page gives."""
    aliases = ((NAME, "pe-nano"), ("text-embedding-3-small", "pe-nano"))
    settings = ServerSettings(models=ModelSettings(aliases=aliases))
    with running(settings, model=AutoModel.from_pretrained("pe-nano", device="cpu")) as started:
        yield started


def fitted(text: str, server, nano) -> str:
    """A block with the address of the server, and the dimension of the model."""
    dimension = f"{nano.embed_dim}"
    return text.replace(ADDRESS, f"127.0.0.1:{server.port}").replace("1024", dimension)


def one_block(pattern: str, language: str = "python") -> Block:
    (found,) = [
        block
        for block in blocks_of(PAGE)
        if block.language == language and re.search(pattern, block.text, re.MULTILINE)
    ]
    return found


def block_importing(module: str) -> Block:
    return one_block(rf"^(from|import) {re.escape(module)}\b")


@pytest.mark.timeout(600)
def test_the_recipes_find_the_image_that_a_text_describes(folder, server, nano):
    if not (ADAPTERS / "litellm").is_dir():
        message = f"no litellm in {ADAPTERS}; `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    given = {
        "api": f"{server.url}/v1",
        "shared": [one_block(re.escape(text)).text for text in SHARED],
        "recipes": {
            name: fitted(block_importing(module).text, server, nano)
            for name, module in RECIPES.items()
        },
    }
    with serving_postgres(ADAPTERS) as database:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(CHECKS), json.dumps(given)],
            cwd=folder, text=True, capture_output=True, check=False, timeout=500,
            env=build_environment(folder, PYTHONPATH=str(ADAPTERS), **QUIET, **database),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    outcomes = json.loads((folder / "outcomes.json").read_text())
    assert [*outcomes] == [*RECIPES, "network"]
    assert not any(outcomes.values()), "\n".join(outcomes.values())


def test_the_recipe_of_the_ai_sdk_runs_in_node(folder, server, nano):
    if shutil.which("node") is None:
        if os.environ.get("CI"):
            pytest.fail("no node")
        pytest.skip("no node")
    packages = browser_client("ai").parent
    (folder / "node_modules").symlink_to(packages)
    block = one_block("@ai-sdk/openai-compatible", "js")
    script = folder / "recipe.mjs"
    # A line that the page has no need of: the embeddings, for this test.
    more = "\nconsole.log(JSON.stringify([...images.embeddings, text.embedding]));\n"
    script.write_text(fitted(block.text, server, nano) + more)
    done = subprocess.run(
        ["node", script], cwd=folder, env=build_environment(folder),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found, embeddings = done.stdout.splitlines()
    assert f"// {found}\n" in block.text
    paths = [folder / f"{name}.webp" for name in ("cat", "castle", "red-heart")]
    expected = np.vstack([nano.embed_images(paths), nano.embed_text(["a castle"])])
    assert np.abs(np.array(json.loads(embeddings)) - expected).max() < CLOSE


def open_webui_settings(server, nano) -> dict[str, str]:
    """The settings on the page, read by a shell."""
    block = one_block("RAG_EMBEDDING_ENGINE", "sh")
    done = subprocess.run(
        ["sh", "-euc", fitted(block.text, server, nano) + "env"], env={},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("extra_headers", "extra_fields"),
    [
        ({}, {}),
        # ENABLE_FORWARD_USER_INFO_HEADERS and RAG_EMBEDDING_PREFIX_FIELD_NAME
        ({"X-OpenWebUI-User-Name": "Ada%20L", "X-OpenWebUI-User-Role": "user"}, {}),
        ({}, {"prefix": "query: "}),
    ],
)
def test_open_webui_gets_its_embeddings(extra_headers, extra_fields, server, nano):
    """As `agenerate_openai_batch_embeddings` of 0.12.4 asks and reads (retrieval/utils.py)."""
    settings = open_webui_settings(server, nano)
    assert settings["RAG_EMBEDDING_ENGINE"] == "openai"
    texts = [f"{color} heart" for color in ("a red", "a blue", "a green")]
    texts = (texts * 20)[: int(settings["RAG_EMBEDDING_BATCH_SIZE"])]
    reply = httpx2.post(
        f"{settings['RAG_OPENAI_API_BASE_URL']}/embeddings",
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {settings['RAG_OPENAI_API_KEY']}",
            **extra_headers,
        },
        content=json.dumps(
            {"input": texts, "model": settings["RAG_EMBEDDING_MODEL"], **extra_fields}
        ),
    )
    reply.raise_for_status()
    embeddings = np.array([item["embedding"] for item in reply.json()["data"]])
    assert np.abs(embeddings - nano.embed_text(texts)).max() < CLOSE


def test_every_library_of_the_table_has_a_recipe_that_is_run():
    text = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[.+?\]\(#(.+?)\)", text, re.MULTILINE)
    headings = {
        line.lstrip("# ").lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("### ")
    }
    assert headings == set(listed)
    run = {block_importing(module).line for module in (*RECIPES.values(), "mteb")}
    run |= {one_block(re.escape(text)).line for text in SHARED}
    run |= {one_block("ai-sdk", "js").line, one_block("RAG_EMBEDDING_ENGINE", "sh").line}
    assert run == {block.line for block in blocks_of(PAGE) if block.run_by}


def test_a_data_uri_of_the_page_is_the_image(server, nano, folder):
    """As text clients send it: the same embedding as that of the file."""
    uri = data_uri((folder / "cat.webp").read_bytes(), "image/webp")
    body = {"model": NAME, "input": [uri]}
    found = server.client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert np.abs(np.array(found) - nano.embed_image(folder / "cat.webp")[0]).max() < CLOSE
