"""`pe index --tiles`: small drawings in scenes are found, and hits say where."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from cli.command import lines, pe
from PIL import Image

GALLERY = files("perception_encoder") / "data" / "gallery"
SCENES = {
    "one": ("bus", "cat", "guitar", "house"),
    "two": ("pizza", "tree", "umbrella", "crown"),
    "three": ("ambulance", "frog", "key", "sun"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of four drawings each, and indexes of them with tiles and without."""
    root = tmp_path_factory.mktemp("work")
    (root / "in").mkdir()
    for scene, names in SCENES.items():
        canvas = Image.new("RGB", (800, 600), "white")
        for number, name in enumerate(names):
            place = (60 + 400 * (number % 2), 10 + 300 * (number // 2))
            with Image.open(str(GALLERY / f"{name}.webp")) as drawing:
                canvas.paste(drawing.convert("RGB").resize((280, 280)), place)
        canvas.save(root / "in" / f"{scene}.png")
    for name, options in (("tiles", ["--tiles", "2x2"]), ("plain", [])):
        made = pe("index", "in", "--index", f"{name}.lance", *options, folder=root)
        assert made.returncode == 0, made.stderr
        assert "3 embedded; 3 images in the index" in made.stderr
    return root


def find(folder: Path, *arguments: str) -> list[dict[str, object]]:
    return lines(pe(*arguments, "--index", "tiles.lance", "--json", folder=folder))


@pytest.mark.parametrize("scene", SCENES)
def test_each_thing_of_a_scene_is_found_in_its_part(folder: Path, scene: str) -> None:
    for number, name in enumerate(SCENES[scene]):
        found = find(folder, "search", f"a {name}")
        assert len(found) == len({str(one["id"]) for one in found}) == 3
        best = found[0]
        assert Path(str(best["uri"])).stem == scene
        assert best["member"] is None
        x, y = 400 * (number % 2), 300 * (number // 2)
        assert best["box"] == {"x": x, "y": y, "width": 400, "height": 300}


def test_the_table_shows_the_part_as_a_query_writes_it(folder: Path) -> None:
    shown = pe("search", "a cat", "-k1", "--index", "tiles.lance", folder=folder).stdout
    name = re.search(r"\S+one\.png#xywh=400,0,400,300", shown)
    assert name is not None
    again = find(folder, "search", f"@{name.group()}")
    assert again[0]["box"] == {"x": 400, "y": 0, "width": 400, "height": 300}
    paths = pe("search", "a cat", "-k1", "--paths", "--index", "tiles.lance", folder=folder)
    assert Path(paths.stdout.strip()) == folder / "in" / "one.png"


def test_the_sheet_frames_the_part(folder: Path) -> None:
    pe("search", "a cat", "-k1", "--index", "tiles.lance", "--sheet", "a.png", folder=folder)
    pe("search", "a cat", "-k1", "--index", "plain.lance", "--sheet", "b.png", folder=folder)
    with Image.open(folder / "a.png") as framed, Image.open(folder / "b.png") as plain:
        assert framed.size == plain.size
        assert framed.convert("L").histogram()[0] > plain.convert("L").histogram()[0] + 200


def test_info_counts_images_and_names_the_tiles(folder: Path) -> None:
    shown = pe("indexes", "info", "--index", "tiles.lance", "--json", folder=folder).stdout
    record = json.loads(shown)
    assert (record["rows"], record["tiles"], record["tile_rows"]) == (3, "2x2", 12)


def test_other_commands_see_images(folder: Path) -> None:
    done = pe("duplicates", "--index", "tiles.lance", folder=folder)
    assert done.returncode == 0, done.stderr
    labels = lines(
        pe("classify", "--index", "tiles.lance", "--labels", "cat", "--json", folder=folder)
    )
    assert len(labels) == 3
    checked = pe("doctor", "--index", "tiles.lance", folder=folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--tiles", "9x9"], "2 to 16"),
        (["--tiles", "many"], "2x2"),
        (["--tiles", "3x3"], "has images with tiles of 2x2"),
    ],
)
def test_wrong_tiles_are_refused(folder: Path, options: list[str], reason: str) -> None:
    ended = pe("index", "in", "--index", "tiles.lance", *options, folder=folder)
    assert ended.returncode != 0
    assert reason in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
