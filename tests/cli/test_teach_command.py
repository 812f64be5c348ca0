"""`pe teach` and `pe classify --classifier`, on drawings and an index of them."""

import csv
import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from cli.command import pe_ending

GALLERY = files("perception_encoder") / "data" / "gallery"
HEARTS = ("red-heart", "blue-heart", "green-heart", "yellow-heart")
ANIMALS = ("cat", "dog", "horse", "cow")
OTHERS = ("umbrella", "anchor", "bicycle")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of examples for each label, and one of other drawings."""
    for label, names in (("heart", HEARTS), ("animal", ANIMALS), ("other", OTHERS)):
        (tmp_path / "examples" / label).mkdir(parents=True)
        for name in names:
            shutil.copy(str(GALLERY / f"{name}.webp"), tmp_path / "examples" / label)
    (tmp_path / "inbox").mkdir()
    for name in ("purple-heart", "sheep", "airplane"):
        shutil.copy(str(GALLERY / f"{name}.webp"), tmp_path / "inbox")
    return tmp_path


def _labels(out: str) -> dict[str, str | None]:
    records = map(json.loads, out.splitlines())
    return {Path(one["uri"]).stem: one["label"] for one in records}


def test_folders_teach_a_classifier_that_is_used_by_its_name(folder):
    done = pe_ending("teach", "things", "examples", "--none", "other", folder=folder)
    assert "heart" in done.stdout
    assert "too few to say" in done.stdout
    assert "pe classify IMAGES --classifier things" in done.stderr
    found = pe_ending("classify", "inbox", "--classifier", "things", "--json", folder=folder)
    labels = _labels(found.stdout)
    assert (labels["purple-heart"], labels["sheep"]) == ("heart", "animal")
    assert labels["airplane"] is None
    shown = pe_ending("classify", "inbox", "--classifier", "things", folder=folder)
    assert "fit" not in shown.stdout
    assert "1 without a label" in shown.stderr
    sure = pe_ending(
        "classify", "inbox", "--classifier", "things", "--min-probability", "0", "--paths",
        "--only", "heart", folder=folder,
    )  # fmt: skip
    assert [Path(line).stem for line in sure.stdout.splitlines()] == ["purple-heart"]


def test_a_table_teaches_several_labels_of_one_image(folder):
    labels = {"red-heart": "heart,red", "red-circle": "red; circle", "blue-heart": "heart",
              "yellow-circle": "circle", "green-heart": "heart", "red-apple": "red"}  # fmt: skip
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([str(GALLERY / f"{name}.webp"), label] for name, label in labels.items())
    done = pe_ending("teach", "marks.npz", "labels.csv", "--multi-label", "--json", folder=folder)
    about = json.loads(done.stdout)
    assert about["is_multi_label"]
    assert {one["label"] for one in about["labels"]} == {"heart", "red", "circle"}
    assert (folder / "marks.npz").is_file()
    found = pe_ending(
        "classify", str(GALLERY / "red-heart.webp"), "--classifier", "marks.npz", "--json",
        folder=folder,
    )  # fmt: skip
    assert set(json.loads(found.stdout)["applies"]) == {"heart", "red"}
    moving = pe_ending(
        "classify", "inbox", "--classifier", "marks.npz", "--move-to", "x", "--dry-run",
        folder=folder, returns=2,
    )  # fmt: skip
    assert "several" in moving.stderr
    pe_ending("index", "inbox", "--index", "t.lance", folder=folder)
    unsure = pe_ending(
        "select", "--index", "t.lance", "--by", "uncertain", "--classifier", "marks.npz",
        folder=folder, returns=1,
    )  # fmt: skip
    assert "one label for each image" in unsure.stderr


def test_an_index_is_taught_from_and_classified_without_reading_images(folder):
    pe_ending("index", "examples", "--index", "t.lance", folder=folder)
    pe_ending("teach", "things", "--index", "t.lance", folder=folder)
    shutil.rmtree(folder / "examples")
    found = pe_ending(
        "classify", "--index", "t.lance", "--classifier", "things", "--json", folder=folder
    )
    assert _labels(found.stdout)["red-heart"] == "heart"
    chosen = pe_ending(
        "select", "--index", "t.lance", "--by", "uncertain", "--classifier", "things", "-n", "3",
        "--json", folder=folder,
    )  # fmt: skip
    margins = [json.loads(line)["score"] for line in chosen.stdout.splitlines()]
    assert margins == sorted(margins)
    assert len(margins) == 3
    both = pe_ending(
        "select", "--by", "uncertain", "--classifier", "things", "-l", "a,b", folder=folder,
        returns=2,
    )  # fmt: skip
    assert "labels of its own" in both.stderr
    wrong = pe_ending(
        "teach", "x", "--index", "t.lance", "--label-column", "kind", folder=folder, returns=1
    )
    assert "no column 'kind'" in wrong.stderr


def test_one_file_of_two_labels_is_left_out_and_reported(folder):
    shutil.copy(folder / "examples/heart/red-heart.webp", folder / "examples/animal/copy.webp")
    done = pe_ending("teach", "things", "examples", folder=folder)
    assert "2 images left out" in done.stderr
    assert "heart and animal" in done.stderr or "animal and heart" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("teach", "x", "examples/heart"), 2, "nothing to tell 'heart' from"),
        (("teach", "x", "nowhere"), 1, "nowhere"),
        (("teach", ".x", "examples"), 2, "cannot name a classifier"),
        (("teach", "x", "examples", "--where", "width > 3"), 2, "name no sources"),
        (("classify", "inbox", "--classifier", "x"), 1, "no classifier"),
        (("classify", "inbox", "--classifier", "x", "-l", "a"), 2, "labels of its own"),
        (("classify", "inbox"), 2, "--classifier"),
        (("serve", "--classifier", "x"), 1, "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(folder, arguments, code, why):
    assert why in pe_ending(*arguments, folder=folder, returns=code).stderr


def test_a_classifier_of_another_model_is_refused(folder):
    pe_ending("teach", "things.npz", "examples", folder=folder)
    data = (folder / "things.npz").read_bytes()
    (folder / "things.npz").write_bytes(data.replace(b'"pe-nano"', b'"pe-nine"'))
    done = pe_ending("classify", "inbox", "--classifier", "things.npz", folder=folder, returns=1)
    assert "teach it again" in done.stderr
