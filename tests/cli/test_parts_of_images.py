"""`#xywh=…` after an image's name, on every command that takes an image."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from cli.command import lines, pe
from PIL import Image

GALLERY = files("perception_encoder") / "data" / "gallery"
NAMES = ("bus", "cat", "guitar", "house", "pizza", "red-heart", "tree", "umbrella")
LEFT, RIGHT = "#xywh=0,0,300,300", "#xywh=percent:50,0,50,100"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings, their index, and a scene beside them: a bus on the left, a cat on the right."""
    root = tmp_path_factory.mktemp("work")
    (root / "in").mkdir()
    for name in NAMES:
        (root / "in" / f"{name}.webp").write_bytes((GALLERY / f"{name}.webp").read_bytes())
    scene = Image.new("RGB", (600, 300), "white")
    for name, left in (("bus", 0), ("cat", 300)):
        with Image.open(root / "in" / f"{name}.webp") as drawing:
            scene.paste(drawing.convert("RGB").resize((300, 300)), (left, 0))
    scene.save(root / "scene.png")
    made = pe("index", "in", "--index", "t.lance", folder=root)
    assert made.returncode == 0, made.stderr
    return root


def best(folder: Path, *arguments: str) -> str:
    found = lines(pe(*arguments, "--index", "t.lance", "-k1", "--json", folder=folder))
    return Path(str(found[0]["uri"])).stem


@pytest.mark.parametrize("command", ["search", "similar"])
def test_a_part_of_a_scene_finds_what_it_shows(folder: Path, command: str) -> None:
    assert best(folder, command, f"scene.png{LEFT}") == "bus"
    assert best(folder, command, f"scene.png{RIGHT}") == "cat"


def test_a_part_is_a_term_of_a_sum(folder: Path) -> None:
    assert best(folder, "search", f"scene.png{LEFT} + 3:scene.png{RIGHT}") == "cat"
    assert best(folder, "search", f"scene.png{RIGHT}", "+", f"2:@bus.webp{LEFT}") == "bus"


def test_similar_leaves_the_image_of_a_part_out(folder: Path) -> None:
    found = pe("similar", "@cat.webp#xywh=percent:0,0,90,90", "--index", "t.lance", folder=folder)
    assert "cat.webp" not in found.stdout
    assert "tree.webp" in found.stdout


def test_a_saved_search_keeps_its_part(folder: Path) -> None:
    saved = pe("search", f"scene.png{RIGHT}", "--save", "part", "--index", "t.lance", folder=folder)
    assert saved.returncode == 0, saved.stderr
    (folder / "elsewhere").mkdir()
    again = pe(
        "searches", "run", "part", "--index", "../t.lance", "--json", folder=folder / "elsewhere"
    )
    assert Path(str(lines(again)[0]["uri"])).stem == "cat"


def test_the_sheet_shows_the_part(folder: Path) -> None:
    drawn = pe(
        "search", f"scene.png{RIGHT}", "--index", "t.lance", "--sheet", "s.png", folder=folder
    )
    assert drawn.returncode == 0, drawn.stderr
    assert (folder / "s.png").stat().st_size > 1000


def test_embeddings_are_those_of_the_part(folder: Path) -> None:
    with Image.open(folder / "scene.png") as scene:
        scene.crop((300, 0, 600, 300)).save(folder / "right.png")
    part, cut, whole = (
        np.array(one["vector"])
        for one in lines(pe("embed", f"scene.png{RIGHT}", "right.png", "scene.png", folder=folder))
    )
    np.testing.assert_allclose(part, cut, atol=1e-4)
    assert part @ whole < 0.99


def test_compare_takes_parts(folder: Path) -> None:
    compared = pe(
        "compare", f"scene.png{RIGHT}", f"scene.png{LEFT}", "in/cat.webp", "--json", folder=folder
    )
    scores = {str(one["item"]): one["score"] for one in lines(compared)}
    assert scores["in/cat.webp"] > 0.9 > scores[f"scene.png{LEFT}"]  # type: ignore[operator]


def test_classify_takes_parts(folder: Path) -> None:
    done = pe(
        "classify", f"scene.png{LEFT}", f"scene.png{RIGHT}", "--labels", "bus,cat", "--json",
        "--sheet", "labels.png", folder=folder,
    )  # fmt: skip
    found = [(Path(str(one["uri"])).name, one["labels"][0]["label"]) for one in lines(done)]  # type: ignore[index]
    assert found == [(f"scene.png{LEFT}", "bus"), ("scene.png#xywh=percent:50,0,50,100", "cat")]
    assert "cannot" not in done.stderr


def test_a_file_with_such_a_name_opens(folder: Path) -> None:
    odd = folder / "odd.png#xywh=0,0,300,300"
    odd.write_bytes((folder / "in" / "pizza.webp").read_bytes())
    assert best(folder, "search", odd.name) == "pizza"
    (record,) = lines(pe("embed", odd.name, folder=folder))
    assert record["item"] == odd.name


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("search", "scene.png#xywh=1,2", "--index", "t.lance"), "is not a box"),
        (("similar", "scene.png#xywh=1,2,0,4", "--index", "t.lance"), "above 0"),
        (("search", "@cat.webp#xywh=nan,2,3,4", "--index", "t.lance"), "finite"),
        (("search", "scene.png#xywh=900,0,5,5", "--index", "t.lance"), "600 × 300 pixels"),
        (("embed", "scene.png#xywh=1,2"), "is not a box"),
        (("compare", "scene.png#xywh=-1,2,3,4", "a cat"), "negative"),
        (("classify", "scene.png#xywh=1,2", "--labels", "cat"), "is not a box"),
        (("classify", "gone.png#xywh=1,2,3,4", "--labels", "cat"), "no such file"),
    ],
)
def test_a_wrong_part_ends_with_what_to_do(
    folder: Path, command: tuple[str, ...], reason: str
) -> None:
    ended = pe(*command, folder=folder)
    assert ended.returncode != 0
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_one_wrong_part_of_several_is_reported_alone(folder: Path) -> None:
    ended = pe("embed", "scene.png#xywh=1,2", "scene.png", folder=folder)
    assert ended.returncode == 1
    assert [json.loads(line)["item"] for line in ended.stdout.splitlines()] == ["scene.png"]
    assert "1 of 2 items not embedded" in ended.stderr
