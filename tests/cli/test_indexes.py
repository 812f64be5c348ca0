"""`pe indexes` as people run it: real processes, files and indexes."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import pe_ending as pe
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
    assert "out.parquet: 4 vectors of pe-nano" in out.stderr
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
    assert "name it with --model" in refused.stderr
    done = pe("indexes", "import", "f", "--index", "f.lance", "--model", "pe-nano", folder=folder)
    assert "5 rows added" in done.stderr
    assert "5 vectors were not of unit length" in done.stderr
    assert Index.open(folder / "f.lance").identity == Index.open(folder / "t.lance").identity
