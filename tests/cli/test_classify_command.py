"""`pe classify` on drawings of plain colors, of files and of an index."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from cli.command import invoke
from PIL import Image
from typer.testing import Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "classify.md"
GALLERY = files("perception_encoder") / "data" / "gallery"
COLORS = {
    "red-heart": "red", "red-circle": "red", "blue-heart": "blue", "blue-square": "blue",
    "green-circle": "green",
}  # fmt: skip
LABELS = "red,blue,green"

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings, one of them in an archive, a file that is no image, and the index of all."""
    root = tmp_path_factory.mktemp("work")
    images = root / "images"
    images.mkdir()
    for name in COLORS:
        shutil.copy(str(GALLERY / f"{name}.webp"), images)
    with tarfile.open(root / "more.tar", "w") as tar:
        tar.add(images / "green-circle.webp", "green-circle.webp")
    (images / "green-circle.webp").unlink()
    done = invoke("index", str(images), str(root / "more.tar"), "--index", str(root / "t.lance"))
    assert done.exit_code == 0, done.output
    (images / "not.png").write_text("no image")
    return root


@pytest.fixture
def classify(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)

    def run(*arguments: str, given: bytes = b"", returns: int = 0) -> Result:
        done = invoke("classify", *arguments, given=given)
        assert done.exit_code == returns, done.output
        return done

    return run


def counts(done: Result) -> str:
    """Return the last line without how well the labels fit."""
    return re.sub(r" \([^)]*\)", "", done.stderr.splitlines()[-1])


def by_name(done: Result) -> dict[str, str | None]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(one["member"] or one["uri"]).stem: one["label"] for one in found}


def test_images_get_their_colors_and_a_bad_file_stops_nobody(classify: Run) -> None:
    done = classify("images", "more.tar", "--labels", LABELS, "--json", "-k2", returns=1)
    *found, last = [json.loads(line) for line in done.stdout.splitlines() if '"label"' in line]
    (bad,) = [json.loads(line) for line in done.stdout.splitlines() if '"error"' in line]
    assert {
        Path(one["member"] or one["uri"]).stem: one["label"] for one in [*found, last]
    } == COLORS
    assert (Path(last["uri"]).name, last["member"]) == ("more.tar", "green-circle.webp")
    assert [len(one["labels"]) for one in found] == [2] * 4
    for one in found:
        first, second = one["labels"]
        assert one["label"] == first["label"]
        assert first["score"] > second["score"]
        assert 1 > first["probability"] > second["probability"] > 0
    assert (Path(bad["uri"]).name, bad["error"]) == ("not.png", "ImageDecodeError")
    assert bad["message"] in done.stderr
    assert counts(done) == "5 images: 2 red, 2 blue, 1 green; 1 failed"


def test_an_index_is_classified_without_its_images(classify: Run, folder: Path) -> None:
    (folder / "images").rename(folder / "away")
    try:
        done = classify("--index", "t.lance", "--labels", LABELS, "--json")
        assert by_name(done) == COLORS
        where = classify(
            "--index", "t.lance", "-l", LABELS, "--where", "uri LIKE '%heart%'", "--json"
        )
        assert by_name(where) == {"red-heart": "red", "blue-heart": "blue"}
    finally:
        (folder / "away").rename(folder / "images")


def test_names_on_stdin_become_an_index_for_people(classify: Run, folder: Path) -> None:
    (folder / "labels.txt").write_text("warm: red, orange\ncold colors: blue # and the like\n")
    given = b"images/red-heart.webp\0images/blue-square.webp\0"
    done = classify("-0", "-", "--labels-file", "labels.txt", "-t", "{}", "-t", "a {}", given=given)
    header, red, blue = done.stdout.splitlines()
    assert header == f"probability  fit     {'label':11}  image"
    assert red.split()[2:] == ["warm", str(folder / "images" / "red-heart.webp")]
    assert red.split()[1] in ("strong", "weak", "-")
    assert blue[21:32] == "cold colors"
    assert "knows drawings, not photos" in done.stderr


def test_the_guide_shows_what_is_printed(classify: Run, folder: Path) -> None:
    """But for the probabilities, which change with the model."""
    command = "pe classify images --labels red,blue,green,yellow"
    text = PAGE.read_text(encoding="utf-8")
    assert f"{command} --sheet labels.png\n" in text
    done = classify(*command.split()[2:], returns=1)
    printed = done.stdout.replace(str(folder), "/home/me")
    shown = text.partition("```\nprobability")[2].partition("\n```")[0]
    probability = r"[01]\.\d{3}  (strong|weak|-) +"
    assert re.sub(probability, "*", printed) == re.sub(probability, "*", f"probability{shown}\n")


def test_paths_of_one_label_are_fit_for_xargs(classify: Run, folder: Path) -> None:
    done = classify("--index", "t.lance", "-l", LABELS, "--only", "red", "--paths", "-0")
    assert sorted(done.stdout.split("\0")) == [
        "", *(str(folder / "images" / f"red-{one}.webp") for one in ("circle", "heart"))
    ]  # fmt: skip
    assert counts(done) == "5 images: 2 red, 2 blue, 1 green"


def test_below_a_probability_there_is_no_label(classify: Run) -> None:
    options = ("--index", "t.lance", "-l", "red,red", "--min-probability", "0.6")
    assert "occurs twice" in classify(*options, returns=2).stderr
    same = ("--index", "t.lance", "--labels", "red, Red", "--min-probability", "0.6")
    assert set(by_name(classify(*same, "--json")).values()) == {None}
    done = classify(*same, "--sheet", "unsure.png")
    for line in done.stdout.splitlines()[1:]:
        probability, _, label, _ = line.split()
        assert (probability, label) == ("0.500", "-")
    assert "5 images: 0 red, 0 Red; 5 without a label" in done.stderr
    assert classify(*same, "--paths").stdout == ""
    assert len(classify(*same, "--paths", "--only", "-").stdout.splitlines()) == 5


def test_one_label_is_a_yes_or_no_question(classify: Run) -> None:
    done = classify("--index", "t.lance", "-l", "a heart", "--json")
    found = by_name(done)
    assert found["red-heart"] == found["blue-heart"] == "a heart"
    assert found["blue-square"] is None
    fits = {json.loads(line)["labels"][0]["fit"] for line in done.stdout.splitlines()}
    assert fits <= {"strong", "weak", "none"}
    assert set(by_name(classify("--index", "t.lance", "-l", "a dog", "--json")).values()) == {None}
    header = classify("--index", "t.lance", "-l", "a heart").stdout.splitlines()[0]
    assert header == "cosine  fit     label    image"
    strong = classify("--index", "t.lance", "-l", "a heart", "--min-fit", "strong", "--paths")
    assert all("heart" in line for line in strong.stdout.splitlines())


def test_a_sheet_has_a_row_for_each_label_with_images(classify: Run, folder: Path) -> None:
    done = classify(
        "--index", "t.lance", "-l", f"{LABELS},yellow", "--sheet", "labels.png", "--json"
    )
    assert len(done.stdout.splitlines()) == 5
    assert "labels.png: the nearest images of 3 of 3 labels" in done.stderr
    with Image.open(folder / "labels.png") as sheet:
        assert sheet.height > 3 * 224
        assert sheet.width > 3 * 224


def test_images_are_moved_into_folders_when_that_is_wanted_for_sure(
    classify: Run, folder: Path
) -> None:
    shutil.copytree(folder / "images", folder / "inbox")
    options = ("inbox", "more.tar", "-l", LABELS, "--only", "red", "--only", "green")
    refused = classify(*options, "--move-to", "inbox", returns=2)
    assert "--dry-run" in refused.stderr
    dry = classify("--index", "t.lance", *options[2:], "--move-to", "inbox", "--dry-run")
    assert "2 images would move into inbox" in dry.stderr
    assert len(dry.stdout.splitlines()) == 2
    done = classify(*options, "--move-to", "inbox", "--yes", returns=1)
    assert sorted(done.stdout.splitlines()) == [
        f"{folder}/inbox/red-{one}.webp -> {folder}/inbox/red/red-{one}.webp"
        for one in ("circle", "heart")
    ]
    assert "more.tar/green-circle.webp: stays: it is in an archive" in done.stderr
    assert sorted(path.name for path in (folder / "inbox").iterdir()) == [
        "blue-heart.webp", "blue-square.webp", "moved.jsonl", "not.png", "red",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images"], "--labels cat,dog"),
        (["images", "-l", "a", "--labels-file", "labels.txt"], "not both"),
        (["images", "-l", "a,b", "--only", "c"], "--only c"),
        (["images", "-l", "a,-"], "means no label"),
        (["images", "-l", "a", "-t", "a photo"], "needs {}"),
        (["images", "-l", "a", "--index", "t.lance"], "name no sources"),
        (["images", "-l", "a", "--where", "width > 1"], "name no sources"),
        (["images", "-l", "a", "--sheet", "nowhere/a.png"], "nowhere: no such folder"),
        (["-l", "a", "--column", "image"], "need sources"),
        (["-l", "a", "-0"], "need sources"),
        (["-l", " , "], "no labels"),
        (["-l", "a", "--labels-file", "nowhere.txt"], "not both"),
    ],
)
def test_wrong_usage_is_told(classify: Run, arguments: list[str], message: str) -> None:
    assert message in classify(*arguments, returns=2).stderr
