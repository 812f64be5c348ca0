"""`pe eval` on drawings of plain colors, of which a model knows everything or the wrong thing."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cli.command import invoke
from typer.testing import Result

DATA = files("perception_encoder") / "data"
COLORS = {
    "red": ["red-heart", "red-circle"],
    "blue": ["blue-heart", "blue-square"],
    "green": ["green-circle"],
}

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each color, one image in none, and an index of captions."""
    root = tmp_path_factory.mktemp("work")
    for color, names in COLORS.items():
        (root / "set" / color).mkdir(parents=True)
        for name in names:
            shutil.copy(str(DATA / "gallery" / f"{name}.webp"), root / "set" / color)
    shutil.copy(root / "set" / "red" / "red-heart.webp", root / "set" / "stray.webp")
    rows = [
        "set/red/red-heart.webp,red heart,a red heart",
        "set/blue/blue-square.webp,blue square,",
        "set/blue/blue-square.webp,a square that is blue,",
        "set/green/green-circle.webp,green circle,",
        "set/stray.webp,Red  Heart,",
        "set/red/red-circle.webp,,",
    ]
    (root / "captions.csv").write_text("\n".join(["image,caption,more", *rows]), encoding="utf-8")
    return root


@pytest.fixture
def evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)

    def run(*arguments: str, returns: int = 0) -> Result:
        done = invoke("eval", *arguments)
        assert done.exit_code == returns, done.output
        return done

    return run


def records(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_folder_for_each_class_is_classified(evaluate: Run) -> None:
    done = evaluate("classification", "set", "--json")
    (found,) = records(done)
    assert found["model"] == "pe-nano"
    assert len(found["fingerprint"]) == 16
    assert (found["images"], found["labels"]) == (5, 3)
    assert found["top1"]["value"] == found["mean_recall"]["value"] == 1
    assert found["top1"]["low"] == pytest.approx(0.5655, abs=1e-3)  # Wilson's, 5 of 5
    assert found["top5"] is None
    assert found["confusions"] == []
    assert "1 image without a class left out" in done.stderr


def test_several_models_see_the_same_images(evaluate: Run) -> None:
    folder = str(DATA / "pe-nano")
    lines = evaluate("classification", "set", "-m", "pe-nano", "-m", folder).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["pe-nano", folder]
    assert lines[1].split()[1:] == lines[2].split()[1:]
    assert lines[4] == "compared with pe-nano, image by image"
    assert lines[6].split() == [folder, "0.0", "(-28.0", "to", "28.0)", "0", "0"]  # of five


def test_the_guide_shows_what_is_printed(evaluate: Run, folder: Path) -> None:
    shutil.copytree(folder / "set" / "red", folder / "colors" / "red")
    shutil.copytree(folder / "set" / "blue", folder / "colors" / "blue")
    page = Path(__file__).resolve().parents[2] / "docs" / "guides" / "classify.md"
    shown = page.read_text(encoding="utf-8").partition("```\nmodel ")[2].partition("```")[0]
    assert evaluate("classification", "colors").stdout == f"model {shown}"


def test_people_see_what_is_taken_for_what(evaluate: Run, folder: Path) -> None:
    names = {"red": "red", "green": ["green"], "blue": ["yellow"], "x": "blue"}
    (folder / "wrong.json").write_text(json.dumps(names), encoding="utf-8")
    lines = evaluate("classification", "set", "--labels-file", "wrong.json").stdout.splitlines()
    columns = ["model", "images", "labels", "top-1 %", "top-5 %", "mean recall %"]
    assert [lines[0].find(one) >= 0 for one in columns] == [True] * 6
    assert lines[1].split()[:3] == ["pe-nano", "5", "4"]
    text = "\n".join(lines)
    assert "against" not in text
    worst = text.partition("pe-nano: worst classes\n")[2].splitlines()
    assert worst[1].split() == ["blue", "2", "0.0"]
    confused = text.partition("most frequent confusions\n")[2].splitlines()
    assert ["blue", "x", "2"] in [line.split() for line in confused]


def test_a_column_of_numbers_and_a_list_of_names(evaluate: Run, folder: Path) -> None:
    rows = ["set/red/red-heart.webp,1", "set/blue/blue-heart.webp,0", "set/gone.webp,0"]
    (folder / "numbers.csv").write_text("\n".join(["image,kind", *rows]), encoding="utf-8")
    (folder / "names.txt").write_text("blue\nred\n", encoding="utf-8")
    options = ("--label-column", "kind", "--labels-file", "names.txt", "-t", "a {}", "--json")
    done = evaluate("classification", "numbers.csv", *options, returns=1)
    (found,) = records(done)
    assert (found["images"], found["top1"]["value"]) == (2, 1)
    assert found["templates"] == ["a {}"]
    assert "gone.webp" in done.stderr
    assert "1 image could not be read" in done.stderr
    refused = evaluate("classification", "numbers.csv", "--label-column", "kind", returns=2)
    assert "are numbers" in refused.stderr


def test_captions_find_images_and_images_captions(evaluate: Run) -> None:
    done = evaluate(
        "retrieval", "captions.csv", "--caption-column", "caption", "--caption-column", "more",
        "--json",
    )  # fmt: skip
    (found,) = records(done)
    # The stray image is the same file as the red heart, and its caption the same words.
    assert (found["images"], found["captions"]) == (3, 5)
    for k in (1, 5, 10):
        assert found[f"text_to_image_recall@{k}"]["value"] == 1
        assert found[f"image_to_text_recall@{k}"]["value"] == 1
    assert "1 image without a caption left out" in done.stderr
    index = evaluate("retrieval", "captions.csv")
    assert "caption to image  100.0 (" in index.stdout
    assert "3 images, 4 captions" in index.stderr


def test_nothing_to_measure_with_is_an_error(evaluate: Run, folder: Path) -> None:
    for arguments, message in (
        (["retrieval", "set"], "no image has a column 'caption'"),
        (["classification", "set/stray.webp", "--label-column", "kind"], "with a class"),
    ):
        assert message in str(evaluate(*arguments, returns=1).exception)
    (folder / "bad.csv").write_text("image,label\nnowhere.webp,red\n", encoding="utf-8")
    failed = evaluate("classification", "bad.csv", returns=1)
    assert "none of the images could be read" in str(failed.exception)
