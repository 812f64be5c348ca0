"""`pe explain`: maps of what raises and lowers a score."""

import json
from importlib.resources import files

import numpy as np
import pytest
from cli.command import pe
from PIL import Image

GALLERY = files("perception_encoder") / "data" / "gallery"
SCENE = str(GALLERY / "cat-left-of-house.webp")


def test_the_map_is_written_and_the_scores_are_printed(tmp_path):
    done = pe("explain", SCENE, "a cat", "a house", "-o", "why.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["score", "patches", "rest", "text"]
    for row, text in zip(rows, ("a cat", "a house"), strict=True):
        score, patches, rest = map(float, row.split()[:3])
        assert score == pytest.approx(patches + rest, abs=2e-4)
        assert row.endswith(text)
    assert "why.png: the maps of 2 texts" in done.stderr
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width > 2 * picture.height / 2


def test_json_holds_the_maps(tmp_path):
    done = pe("explain", SCENE, "a house", "--json", folder=tmp_path)
    (found,) = map(json.loads, done.stdout.splitlines())
    assert np.shape(found["map"]) == (6, 6)
    assert found["region"] == [0, 0, 1, 1]
    assert np.sum(found["map"]) + found["rest"] == pytest.approx(found["score"], abs=1e-4)
    assert sum(map(len, found["map"])) == 36


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.png", "a cat"], "missing.png"),
        ([SCENE, "a cat", "-o", "none/why.png"], "no such folder"),
        ([SCENE, "a cat", "-o", "why.xyz"], "ends in .png or .jpg"),
        ([SCENE, *["a cat"] * 17], "at most 16"),
        ([SCENE], "Missing argument"),
        (
            [SCENE, "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"],
            "argument 2",
        ),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(tmp_path, arguments, words):
    done = pe("explain", *arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
