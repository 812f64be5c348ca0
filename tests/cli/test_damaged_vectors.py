"""Vectors in an index that say nothing (NaN, zeros, infinities) are named, and spoil no result."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli.command import pe_inside
from PIL import Image

DAMAGED = {"2.png", "5.png", "7.png", "8.png"}
COUNT = 12


@pytest.fixture(scope="module")
def index_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of 12 images, four of whose vectors another program has spoiled."""
    root = tmp_path_factory.mktemp("damaged")
    (root / "in").mkdir()
    for place in range(COUNT):
        color = (20 * place, 255 - 20 * place, 90)
        Image.new("RGB", (32, 32), color).save(root / "in" / f"{place}.png")
    (root / "in" / "copy of 5.png").write_bytes((root / "in" / "5.png").read_bytes())
    path = str(root / "t.lance")
    assert pe_inside("index", str(root / "in"), "--index", path).code == 0
    index = lance.dataset(path).to_table()
    vectors = np.array(index["vector"].to_pylist(), np.float16)
    names = [Path(uri).name for uri in index["uri"].to_pylist()]
    vectors[names.index("2.png")] = np.nan
    vectors[names.index("5.png")] = 0
    vectors[names.index("7.png"), 3] = np.inf
    vectors[names.index("8.png")] *= 3
    field = index.schema.field("vector")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=field.type)
    place = index.schema.get_field_index("vector")
    lance.write_dataset(index.set_column(place, field, column), path, mode="overwrite")
    return path


def named(stderr: str) -> set[str]:
    return {Path(line.split(": ")[1]).name for line in stderr.splitlines() if "damaged (" in line}


def test_classify_leaves_them_out(index_path: str) -> None:
    ended = pe_inside("classify", "--labels", "red,blue", "--index", index_path, "--json")
    assert ended.code == 1
    assert named(ended.err) == DAMAGED
    assert "9 images: " in ended.err
    assert "4 failed" in ended.err
    failed = {Path(str(one["uri"])).name for one in ended.records() if "error" in one}
    assert failed == DAMAGED
    labeled = [one for one in ended.records() if "error" not in one]
    assert len(labeled) == COUNT + 1 - len(DAMAGED)
    assert all(one["label"] in ("red", "blue") for one in labeled)


def test_clean_and_select_leave_them_out(index_path: str) -> None:
    cleaned = pe_inside("clean", index_path, "--json")
    assert cleaned.code == 1
    assert named(cleaned.err) == DAMAGED
    assert {Path(str(one["uri"])).name for one in cleaned.records() if "score" in one}
    chosen = pe_inside("select", "--index", index_path, "-n", "99", "--json")
    assert chosen.code == 1
    assert named(chosen.err) == DAMAGED
    names = {Path(str(one["uri"])).name for one in chosen.records()}
    assert len(names) == COUNT + 1 - len(DAMAGED)
    assert not names & DAMAGED


@pytest.mark.parametrize("where", [(), ("--where", "width > 0 OR width < 0")])
def test_cluster_leaves_them_out(index_path: str, where: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "c.parquet"
    ended = pe_inside(
        "cluster", "-k", "2", "--index", index_path, "--json", "--parquet", str(out), *where,
        "--sheet", str(tmp_path / "c.png"),
    )  # fmt: skip
    assert ended.code == 1
    assert named(ended.err) == DAMAGED
    assert "4 images left out" in ended.err
    members = [Path(p["uri"]).name for one in ended.records() for p in one["images"]]  # type: ignore[attr-defined]
    assert len(members) == COUNT + 1 - len(DAMAGED)
    assert not DAMAGED & set(members)
    written = pq.read_table(out)
    assert sorted(Path(uri).name for uri in written["uri"].to_pylist()) == sorted(members)
    assert np.isfinite(written["cluster_score"].to_numpy()).all()


@pytest.mark.parametrize("name", ["m.html", "m.png", "m.parquet"])
def test_map_leaves_them_out(index_path: str, name: str, tmp_path: Path) -> None:
    ended = pe_inside("map", str(tmp_path / name), "-k", "2", "--index", index_path)
    assert ended.code == 1
    assert named(ended.err) == DAMAGED
    assert f"{tmp_path / name}: 9 of 9 images" in ended.err
    assert (tmp_path / name).is_file()


def test_duplicates_still_compare_their_bytes(index_path: str) -> None:
    ended = pe_inside("duplicates", "--index", index_path, "--json")
    assert ended.code == 0
    assert {line.split("left out: ")[1].split(" its")[0].split("/")[-1].rstrip(":")
            for line in ended.err.splitlines() if "damaged (" in line} == DAMAGED  # fmt: skip
    groups = ended.records()
    identical = [
        {Path(group["keep"]["uri"]).name, *(Path(o["uri"]).name for o in group["others"])}  # type: ignore[index, attr-defined]
        for group in groups
        if group["tier"] == "identical bytes"
    ]
    assert identical == [{"5.png", "copy of 5.png"}]
    near = [o for group in groups for o in group["others"] if o["tier"] == "near duplicate"]  # type: ignore[attr-defined]
    assert near
    assert not DAMAGED & {Path(o["uri"]).name for o in near}


def test_the_library_refuses_to_misread_them(index_path: str) -> None:
    from perception_encoder.analysis.clusters import find_clusters
    from perception_encoder.errors import IndexStorageError
    from perception_encoder.index import Index

    with pytest.raises(IndexStorageError, match=r"[2578]\.png: its vector .* is damaged"):
        find_clusters(Index.open(index_path), num_clusters=2)
