"""`pe cluster` and `pe map` on drawings in several sizes: what belongs together is plain."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli.command import invoke
from PIL import Image
from typer.testing import Result

GALLERY = files("perception_encoder") / "data" / "gallery"
COPIES = {"red-heart": 7, "green-circle": 5, "blue-square": 4}

Run = Callable[..., Result]


def invoked(*arguments: str, returns: int = 0) -> Result:
    done = invoke(*arguments)
    assert done.exit_code == returns, done.output
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("work")
    (root / "images").mkdir()
    for name, count in COPIES.items():
        with Image.open(str(GALLERY / f"{name}.webp")) as drawing:
            for number in range(count):
                side = 100 + 8 * number
                copy = drawing.convert("RGB").resize((side, side))
                copy.save(root / "images" / f"{name}-{number}.jpg", quality=95)
    invoked("index", str(root / "images"), "--index", str(root / "t.lance"))
    (root / "words.txt").write_text("# shapes\na green circle\na red heart\n\na blue square\n")
    return root


@pytest.fixture
def pe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PE_INDEX", "t.lance")
    return invoked


def stems(images: list[dict[str, str]]) -> set[str]:
    return {Path(one["uri"]).stem.rsplit("-", 1)[0] for one in images}


def test_clusters_as_json_an_index_a_sheet_and_parquet(pe: Run) -> None:
    options = ("--names", "words.txt", "--sheet", "c.png", "--parquet", "c.parquet")
    done = pe("cluster", "--json", *options)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["size"] for one in found] == [7, 5, 4]
    assert [stems(one["images"]) for one in found] == [{name} for name in COPIES]
    assert [one["name"] for one in found] == ["a red heart", "a green circle", "a blue square"]
    scores = [image["score"] for image in found[0]["images"]]
    assert scores == sorted(scores, reverse=True)
    assert found[0]["tightness"] == pytest.approx(np.mean(scores), abs=1e-3)
    assert "3 clusters of 16 images; well separated" in done.stderr
    with Image.open("c.png") as sheet:
        assert sheet.width <= 1640
    rows = pq.read_table("c.parquet", columns=["uri", "cluster", "cluster_name"]).to_pylist()
    by_size = dict(zip((7, 5, 4), COPIES, strict=True))
    assert {(row["cluster"], row["cluster_name"]) for row in rows} == {
        (place, name) for place, name in enumerate((one["name"] for one in found), start=1)
    }
    for row in rows:
        assert Path(row["uri"]).stem.startswith(by_size[found[row["cluster"] - 1]["size"]])
    wide = ("-k", "2", "--where", "width > 110", "--parquet", "c.parquet")
    index = pe("cluster", *wide).stdout.splitlines()
    assert pq.read_metadata("c.parquet").num_rows == 10  # it took the other's place
    assert index[0].split() == ["cluster", "images", "tightness", "most", "central"]
    assert sum(int(line.split()[1]) for line in index[1:]) == 5 + 3 + 2


def test_clusters_are_named_by_the_words_of_a_column(pe: Run) -> None:
    done = pe("cluster", "-k", "3", "--json", "--names", "column:uri")
    for line in done.stdout.splitlines():
        found = json.loads(line)
        (name,) = stems(found["images"])
        assert found["name"].split(",")[0] in name.split("-")
    said = pe("cluster", "--names", "column:width", returns=1)
    assert "no text column 'width'; it has id, uri" in str(said.exception)


def test_maps_as_an_image_a_page_and_parquet(pe: Run, folder: Path) -> None:
    assert "map.png: 16 of 16 images" in pe("map", "map.png", "--names", "words.txt").stderr
    with Image.open("map.png") as image:
        assert min(image.size) > 150
    assert "map.html: 16 of 16 images" in pe("map", "map.html").stderr
    text = (folder / "map.html").read_text(encoding="utf-8")
    assert (folder / "images" / "red-heart-0.jpg").as_uri() in text
    assert '"cluster 1"' in text
    pe("map", "map.parquet")
    first = pq.read_table("map.parquet")
    assert {"uri", "x", "y", "cluster", "cluster_name", "cluster_score"} <= set(first.column_names)
    assert "vector" not in first.column_names
    x, y, cluster = (first[name].to_numpy() for name in ("x", "y", "cluster"))
    assert (np.bincount(cluster) == [0, 7, 5, 4]).all()
    middles = [(x[cluster == one].mean(), y[cluster == one].mean()) for one in (1, 2, 3)]
    nearest = np.hypot(*(np.stack([x, y])[:, :, None] - np.transpose(middles)[:, None])).argmin(1)
    np.testing.assert_array_equal(nearest + 1, cluster)


def test_what_cannot_be_is_said(pe: Run, folder: Path) -> None:
    assert "must end in .png, .html or .parquet" in pe("map", "map.gif", returns=2).stderr
    assert "no such folder" in pe("map", "none/map.png", returns=2).stderr
    (folder / "none.txt").write_text("# nothing\n")
    said = pe("cluster", "--names", "none.txt", returns=2).stderr
    assert "no words" in " ".join(said.split())
    nobody = pe("cluster", "--where", "width > 9000")
    assert nobody.stdout == ""
    assert nobody.stderr.endswith("there are no images to group\n")
    assert "no images to place" in pe("map", "m.png", "--where", "width > 9000", returns=1).stderr
