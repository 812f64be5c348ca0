"""Runs the recipes of recipes.md, and checks what they made. See `test_recipes.py`.

`python recipe_checks.py '{"api": URL, "shared": [BLOCK, …], "recipes": {NAME: BLOCK, …}}'`, in a
folder as that of `adapter_checks.py`. A recipe prints what its comment says. What it leaves gives
the embeddings of cat.webp and of "a red heart", which must be the model's own. What came of each
recipe is written to outcomes.json: a traceback, or nothing; under "network", hosts that it called.
"""

import contextlib
import io
import json
import pathlib
import re
import sys
import traceback
from typing import Any

from adapter_checks import CAT, RED_HEART, close

HEART = "a red heart"
PRINTED = re.compile(r"^print\(.*\)  # (.+)$", re.MULTILINE)
LOCAL = ("127.0.0.1", "localhost", "::1")

elsewhere: list[Any] = []
"""Hosts that were looked up or called."""


def watch_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse all but loopback, as an audit hook."""
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        is_file = event == "socket.connect" and not isinstance(address, tuple)
        if not is_file and host not in LOCAL:
            elsewhere.append(host)
            raise OSError(f"the tests have no network: {host}")


def langchain(made: dict[str, Any]) -> tuple[Any, Any]:
    embeddings = made["embeddings"]
    return embeddings.embed_documents(made["uris"])[0], embeddings.embed_query(HEART)


def llama_index(made: dict[str, Any]) -> tuple[Any, Any]:
    return made["vectors"][0], made["embedding"].get_query_embedding(HEART)


def haystack(made: dict[str, Any]) -> tuple[Any, Any]:
    (cat,) = [one for one in made["store"].filter_documents() if one.meta["path"] == "cat.webp"]
    return cat.embedding, made["pipeline"].get_component("text").run(HEART)["embedding"]


def litellm(made: dict[str, Any]) -> tuple[Any, Any]:
    options = {"api_base": made["api"], "api_key": "none"}
    text = made["litellm"].embedding(model="openai/PE-Core-B16-224", input=[HEART], **options)
    return made["images"][0], text.data[0]["embedding"]


def dspy(made: dict[str, Any]) -> tuple[Any, Any]:
    return made["search"].corpus_embeddings[0], made["embedder"](HEART)


def agno(made: dict[str, Any]) -> tuple[Any, Any]:
    rows = made["table"].table.to_arrow().to_pylist()
    (cat,) = [row["vector"] for row in rows if "cat.webp" in row["payload"]]
    return cat, made["embedder"].get_embedding(HEART)


def chroma(made: dict[str, Any]) -> tuple[Any, Any]:
    rows = made["collection"].get(ids=["cat.webp"], include=["embeddings"])["embeddings"]
    return rows[0], made["function"]([HEART])[0]


def lancedb(made: dict[str, Any]) -> tuple[Any, Any]:
    rows = {row["path"]: row["vector"] for row in made["table"].to_arrow().to_pylist()}
    return rows["cat.webp"], made["function"].compute_query_embeddings(HEART)[0]


def qdrant(made: dict[str, Any]) -> tuple[Any, Any]:
    return made["client"].retrieve("images", [0], with_vectors=True)[0].vector, RED_HEART


def qdrant_edge(made: dict[str, Any]) -> tuple[Any, Any]:
    return made["shard"].retrieve([0], with_payload=False, with_vector=True)[0].vector, RED_HEART


def pgvector(made: dict[str, Any]) -> tuple[Any, Any]:
    with made["psycopg"].connect("dbname=postgres") as db:
        made["register_vector"](db)
        row = db.execute("SELECT embedding FROM images WHERE path = 'cat.webp'").fetchone()
        index = db.execute("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'")
        assert len(index.fetchall()) == 1
    assert 0.1 < made["found"][0][1] < 1
    return row[0].to_numpy() if hasattr(row[0], "to_numpy") else row[0], RED_HEART


def run_recipe(name: str, block: str, names: dict[str, Any]) -> None:
    """Run a block in a namespace, and check what it prints and makes."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, f"recipes.md: {name}", "exec"), names)
    expected = PRINTED.findall(block)
    assert expected
    assert printed.getvalue().splitlines()[-len(expected) :] == expected, printed.getvalue()
    image, text = globals()[name](names)
    assert close(image, CAT)
    assert close(text, RED_HEART)


if __name__ == "__main__":
    sys.addaudithook(watch_network)
    given = json.loads(sys.argv[1])
    shared: dict[str, Any] = {"api": given["api"]}
    for block in given["shared"]:
        exec(compile(block, "recipes.md", "exec"), shared)
    outcomes = {}
    for recipe, block in given["recipes"].items():
        try:
            run_recipe(recipe, block, dict(shared))
        except Exception:  # noqa: BLE001  each recipe reports for itself
            outcomes[recipe] = traceback.format_exc()
        else:
            outcomes[recipe] = ""
    outcomes["network"] = " ".join(map(str, elsewhere))
    pathlib.Path("outcomes.json").write_text(json.dumps(outcomes))
