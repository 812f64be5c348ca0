"""`pe indexes` as people run it: real processes, files and indexes."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli.command import pe_ending as pe
from small_models import save_drawings

from perception_encoder.index import Index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with an index of five drawings."""
    root = tmp_path_factory.mktemp("work")
    (root / "images").mkdir()
    save_drawings(root / "images", 5)
    pe("index", "images", "--index", "t.lance", folder=root)
    return root


def test_info_says_whose_vectors_and_how_many(folder: Path) -> None:
    found = json.loads(pe("indexes", "info", "--index", "t.lance", "--json", folder=folder).stdout)
    index = Index.open(folder / "t.lance")
    assert (found["rows"], found["model"], found["embed_dim"]) == (5, "pe-nano", 192)
    assert found["fingerprint"] == index.identity.fingerprint
    assert (found["preprocess"], found["vector_dtype"]) == ("standard", "float16")
    files = [path for path in (folder / "t.lance").rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    assert found["fragments"] >= 1
    assert found["versions_kept"] <= found["version"]
    assert {"name": "uri", "type": "string", "metadata": False} in found["columns"]
    printed = pe("indexes", "info", "--index", "t.lance", folder=folder).stdout
    assert "fixed_size_list" in printed
    missing = pe("indexes", "info", "--index", "none.lance", folder=folder, returns=1)
    assert missing.stderr.startswith("pe: there is no index at none.lance")


def test_an_index_goes_out_and_comes_back(folder: Path) -> None:
    out = pe(
        "indexes", "export", "out.parquet", "--format", "parquet", "--index", "t.lance",
        "--where", "uri NOT LIKE '%drawing3%'", folder=folder,
    )  # fmt: skip
    assert "out.parquet: 4 embeddings of pe-nano" in out.stderr
    back = pe("indexes", "import", "out.parquet", "--index", "new/back.lance", folder=folder)
    assert "4 rows added, 0 replaced (parquet)" in back.stderr
    before, after = (Index.open(folder / name) for name in ("t.lance", "new/back.lance"))
    assert after.identity == before.identity
    assert list(after.rows()) == list(before.rows(where="uri NOT LIKE '%drawing3%'"))
    checked = pe(
        "indexes", "import", "out.parquet", "--index", "new/back.lance", "--model", "pe-nano",
        folder=folder,
    )  # fmt: skip
    assert "0 rows added, 4 replaced" in checked.stderr
    again = ["indexes", "export", "out.parquet", "--format", "parquet", "--index", "t.lance"]
    assert "exists already" in pe(*again, folder=folder, returns=1).stderr


def test_a_foreign_folder_needs_its_model_named(folder: Path) -> None:
    pe("indexes", "export", "f", "--format", "clip-retrieval", "--index", "t.lance", folder=folder)
    (folder / "f" / "perception_encoder.json").unlink()
    vectors = folder / "f" / "img_emb" / "img_emb_0.npy"
    np.save(vectors, 2 * np.load(vectors))
    refused = pe("indexes", "import", "f", "--index", "f.lance", folder=folder, returns=1)
    assert "give it with --model" in refused.stderr
    done = pe("indexes", "import", "f", "--index", "f.lance", "--model", "pe-nano", folder=folder)
    assert "5 rows added" in done.stderr
    assert "5 embeddings were normalized" in done.stderr
    assert Index.open(folder / "f.lance").identity == Index.open(folder / "t.lance").identity


def test_indexes_are_listed_and_removed(folder: Path, tmp_path: Path) -> None:
    pe("index", str(folder / "images"), "--index", "old.lance", folder=tmp_path)
    before = set(tmp_path.iterdir())
    (tmp_path / "other.lance").mkdir()
    listed = pe("indexes", "list", "--json", folder=tmp_path)
    assert [json.loads(line)["rows"] for line in listed.stdout.splitlines()] == [5]
    assert "left out: " in listed.stderr
    assert "pe-nano" in pe("indexes", "list", folder=tmp_path).stdout
    kept = pe("indexes", "remove", "old.lance", folder=tmp_path, given="n\n", returns=1)
    assert "5 images embedded by pe-nano" in kept.stderr
    assert (tmp_path / "old.lance").is_dir()
    pe("indexes", "remove", "old.lance", "--yes", folder=tmp_path)
    assert not [path for path in tmp_path.iterdir() if "old.lance" in path.name], before
    none = pe("indexes", "remove", "images", "--yes", folder=folder, returns=1)
    assert "pe: " in none.stderr
    assert (folder / "images").is_dir()
