"""`--preprocess fast` as people use it: real processes, large JPEGs, the bundled model."""

import json
from pathlib import Path

import pytest
from cli.command import lines
from cli.command import pe_ending as pe
from PIL import Image
from small_models import drawing

from perception_encoder.index import Index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with an index of five JPEGs, made with "fast"."""
    root = tmp_path_factory.mktemp("work")
    (root / "images").mkdir()
    for seed in range(5):
        large = drawing(seed).resize((1201, 903 + seed), Image.Resampling.BICUBIC)
        large.save(root / "images" / f"{seed}.jpg", quality=90)
    pe("index", "images", "--index", "t.lance", "--preprocess", "fast", folder=root)
    return root


def test_the_index_says_how_its_images_were_prepared(folder: Path) -> None:
    facts = json.loads(pe("indexes", "info", "--index", "t.lance", "--json", folder=folder).stdout)
    assert (facts["preprocess"], facts["rows"]) == ("fast", 5)
    assert "fast" in pe("indexes", "info", "--index", "t.lance", folder=folder).stdout
    sizes = sorted((row.width, row.height) for row in Index.open(folder / "t.lance").rows())
    assert sizes == [(1201, 903 + seed) for seed in range(5)]


def test_a_new_image_finds_its_twin_without_any_option(folder: Path) -> None:
    copy = folder / "copy.jpg"
    copy.write_bytes((folder / "images" / "3.jpg").read_bytes())
    hits = lines(pe("search", str(copy), "--index", "t.lance", "--json", folder=folder))
    assert str(hits[0]["uri"]).endswith("3.jpg")
    assert float(str(hits[0]["score"])) > 0.9995
    assert (
        len(lines(pe("search", "red square", "--index", "t.lance", "--json", folder=folder))) == 5
    )


def test_a_later_run_takes_the_indexes_preprocessing_and_refuses_another(folder: Path) -> None:
    again = pe("index", "images", "--index", "t.lance", folder=folder)
    assert "5 skipped" in again.stderr
    refused = pe(
        "index", "images", "--index", "t.lance", "--preprocess", "standard",
        folder=folder, returns=1,
    )  # fmt: skip
    assert "preprocessing fast" in refused.stderr
    assert "preprocessing standard" in refused.stderr


def test_the_environment_chooses_too(folder: Path) -> None:
    pe("index", "images", "--index", "e.lance", folder=folder, PE_PREPROCESS="fast")
    assert Index.open(folder / "e.lance").identity.preprocess == "fast"
