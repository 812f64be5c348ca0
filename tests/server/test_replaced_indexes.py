"""Indexes that are replaced, deleted or only looked at while they are served."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from server.serving import image, make_index, running
from small_models import open_tiny

from perception_encoder.index import Index, Row, write_lock
from perception_encoder.server import ServerSettings
from perception_encoder.server.core import indexes
from perception_encoder.types import ModelIdentity


@pytest.fixture(autouse=True)
def _always_looked_at(monkeypatch):
    monkeypatch.setattr(indexes, "_FRESH_SECONDS", -1.0)


@pytest.fixture
def served(tmp_path):
    """A server of two indexes, the first of which may be changed, and that one's path."""
    files = []
    for seed in range(6):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(image(seed))
    model = open_tiny()
    for name in ("changed", "other"):
        make_index(tmp_path / f"{name}.lance", model, files)
    settings = ServerSettings(
        indexes=tuple(str(tmp_path / f"{name}.lance") for name in ("changed", "other")),
        cache_folder=tmp_path / "thumbnails",
    )
    with running(settings, model=model) as server:
        yield server, tmp_path / "changed.lance"


def asked(server) -> dict[str, tuple[int, str]]:
    """What every route that reads the first index answers: status, and code of the error."""
    key = server.client.get("/v1/items?index=other").json()["items"][0]["id"]  # in both
    replies = {
        "search": server.client.post("/v1/search", json={"terms": [{"text": "cat"}]}),
        "search an item": server.client.post("/v1/search", json={"terms": [{"item": key}]}),
        "knn": server.client.post("/knn-service", json={"text": "cat"}),
        "metadata": server.client.post("/metadata", json={"ids": [key]}),
        "items": server.client.get("/v1/items"),
        "item": server.client.get(f"/v1/items/{key}"),
        "image": server.client.get(f"/v1/items/{key}/image"),
        "thumbnail": server.client.get(f"/v1/items/{key}/thumbnail"),
        "index": server.client.get("/v1/indexes/changed"),
        "status": server.client.get("/v1/indexes/changed/status"),
        "facets": server.client.get("/v1/indexes/changed/facets"),
        "duplicates": server.client.get("/v1/duplicates?tier=bytes"),
    }
    return {
        name: (reply.status_code, "" if reply.is_success else code_of(reply.json()))
        for name, reply in replies.items()
    }


def code_of(body: dict) -> str:
    return body["error"]["code"] if "error" in body else body["message"]


def replace_by_another(path: Path, embed_dim: int, fingerprint: str = "1" * 16) -> None:
    shutil.rmtree(path)
    index = Index.create(path, ModelIdentity("pe-nano", fingerprint, "standard", embed_dim))
    vectors = np.eye(embed_dim, dtype=np.float32)[:3]
    index.add([Row(f"/{n}.png", metadata={"number": n}) for n in range(3)], vectors)


@pytest.mark.parametrize("embed_dim", [24, 16])
def test_an_index_replaced_by_another_models_is_a_409_until_it_is_back(served, embed_dim):
    server, path = served
    before = asked(server)
    assert {status for status, _ in before.values()} == {200}
    kept = path.with_name("kept")
    shutil.copytree(path, kept)
    replace_by_another(path, embed_dim)
    for _ in range(2):
        replies = asked(server)
        assert {status for status, _ in replies.values()} == {409}, replies
        assert replies["search"] == (409, "index_of_another_model")
        assert "was replaced while it was open" in replies["knn"][1]
    first, other = server.client.get("/v1/indexes").json()["data"]
    assert (first["rows"], other["rows"], other["error"]) == (None, 6, None)
    assert "was replaced" in first["error"]
    body = {"index": "other", "terms": [{"text": "cat"}]}
    assert server.client.post("/v1/search", json=body).status_code == 200
    shutil.rmtree(path)
    kept.rename(path)
    assert asked(server) == before


def test_an_index_replaced_by_one_of_the_same_model_is_searched(served):
    server, path = served
    asked(server)
    shutil.rmtree(path)
    make_index(path, server.model, [path.with_name(f"{n}.png") for n in (0, 1)])
    assert {status for status, _ in asked(server).values()} == {200}
    hits = server.client.post("/v1/search", json={"terms": [{"text": "cat"}]}).json()["hits"]
    assert len(hits) == 2


def test_a_deleted_index_is_a_404_and_is_not_made_again(served):
    server, path = served
    before = asked(server)
    kept = path.with_name("kept")
    path.rename(kept)
    for _ in range(2):
        replies = asked(server)
        assert {status for status, _ in replies.values()} == {404}, replies
        assert replies["status"] == (404, "unknown_index")
        assert not path.exists()
    assert [one["rows"] for one in server.client.get("/v1/indexes").json()["data"]] == [None, 6]
    kept.rename(path)
    assert asked(server) == before


def test_who_asks_in_the_same_second_is_told_the_same(served, monkeypatch):
    server, path = served
    assert asked(server)["items"] == (200, "")
    shutil.rmtree(path)
    assert asked(server)["items"] == (404, "unknown_index")
    monkeypatch.setattr(indexes, "_FRESH_SECONDS", 1e9)
    assert {status for status, _ in asked(server).values()} == {404}


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """All files and folders below one, with their sizes and times of change."""
    return {
        str(path): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    }


def test_what_only_reads_writes_nothing(served):
    server, path = served
    before = contents(path)
    replies = asked(server)
    assert {status for status, _ in replies.values()} == {200}
    assert contents(path) == before


def test_status_knows_who_writes_without_taking_the_lock(served):
    server, path = served

    def is_being_written():
        return server.client.get("/v1/indexes/changed/status").json()["is_being_written"]

    assert is_being_written() is False
    code = (
        "import sys; from perception_encoder.index import write_lock\n"
        "with write_lock(sys.argv[1]):\n print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        before = contents(path)
        assert is_being_written() is True
        assert contents(path) == before
        process.stdin.close()
    assert is_being_written() is False
    with write_lock(str(path)):  # by this process
        assert is_being_written() is True


@pytest.mark.parametrize(
    "arguments",
    [
        ("indexes", "info"),
        ("errors",),
        ("search", "cat"),
        ("duplicates",),
        ("indexes", "export", "o.csv"),
    ],
)
def test_no_command_that_reads_makes_a_folder(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-m", "perception_encoder.cli", *arguments, "--index", "gone/t.lance"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
