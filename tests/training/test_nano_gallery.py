"""The images that `pe demo` brings along, as they lie in the package."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder

GALLERY = Path(perception_encoder.__file__).parent / "data" / "gallery"
TRAINING = Path(__file__).parents[2] / "training" / "pe_nano"
FREE = {"Apache-2.0", "MIT"}


@pytest.fixture(scope="module")
def sources() -> dict:
    return json.loads((GALLERY / "sources.json").read_text(encoding="utf-8"))


def test_every_image_has_a_named_source_under_a_free_license(sources: dict) -> None:
    files = {path.name for path in GALLERY.glob("*.webp")}

    assert files == set(sources["images"])
    assert {part.split("/")[0] for parts in sources["images"].values() for part in parts} == set(
        sources["sets"]
    )
    assert {stated["license"] for stated in sources["sets"].values()} <= FREE
    notes = (GALLERY / "LICENSES.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in notes for name in sources["sets"])


def test_the_images_are_those_that_were_planned(sources: dict) -> None:
    planned = json.loads((TRAINING / "gallery.json").read_text(encoding="utf-8"))
    singles = [e.partition("=")[0] for entries in planned["drawings"].values() for e in entries]
    stems = [*singles, *planned["scenes"]]

    assert len(stems) == len(set(stems))
    assert {f"{stem}.webp" for stem in stems} == set(sources["images"])


def test_the_images_are_small_and_show_something() -> None:
    total = 0
    for path in GALLERY.glob("*.webp"):
        total += path.stat().st_size
        with Image.open(path) as image:
            assert image.size == (160, 160)
            assert image.mode == "RGB"
            pixels = np.asarray(image)
        background = (pixels == pixels[0, 0]).all(-1).mean()
        assert 0.03 < background < 0.95, path.name
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == pixels[0, 0]).all(), path.name
    assert total < 1_200_000
