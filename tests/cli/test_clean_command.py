"""`pe clean` and `pe select` as people run them: real files and a real index."""

import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from cli.command import lines, output, pe
from PIL import Image, ImageFilter

GALLERY = Path(str(files("perception_encoder").joinpath("data/gallery")))
CLASSES = {
    "animal": ("cat", "dog", "cow", "horse", "wolf", "lion", "tiger", "bear", "pig", "sheep"),
    "food": ("banana", "bread", "broccoli", "carrot", "cheese", "cherries", "cookie", "corn"),
    "vehicle": ("bus", "taxi", "ambulance", "red-car", "tractor", "fire-engine", "bicycle"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data set with splits and classes, and a fault of each kind that one can plant in it."""
    home = tmp_path_factory.mktemp("clean")
    for name, drawings in CLASSES.items():
        for place, drawing in enumerate(drawings):
            folder = home / "set" / ("test" if place % 4 == 0 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(GALLERY / f"{drawing}.webp", folder)
    train = home / "set" / "train"
    cat = Image.open(GALLERY / "cat.webp").convert("RGB")
    cat.save(train / "animal" / "again.jpg", quality=85)  # a leak: cat is in test
    shutil.move(train / "food" / "carrot.webp", train / "animal" / "carrot.webp")
    cat.filter(ImageFilter.GaussianBlur(4)).save(train / "animal" / "fog.png")
    Image.new("RGB", (80, 80), "navy").save(train / "food" / "plain.png")
    (train / "food" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = pe("index", "set", "--model", "pe-nano", "--index", "set.lance", folder=home)
    assert done.returncode == 1  # of the broken one
    return home


def kinds_of(records):
    return {(one["kind"], Path(one["uri"]).stem) for one in records if "uri" in one}


def test_an_index_is_looked_through_and_drawn(home):
    done = pe("clean", "set.lance", "--json", "--report", "report.html", folder=home)
    records = lines(done)
    found = kinds_of(records)
    assert {("leak", "cat"), ("wrong label", "carrot"), ("blurry", "fog")} <= found
    assert ("blank", "plain") in found
    (leak,) = [one for one in records if one["kind"] == "leak"]
    assert (leak["split"], leak["other"]["split"]) == ("test", "train")
    sizes = {one["label"]: one["images"] for one in records if one["kind"] == "class size"}
    assert sizes == {"animal": 13, "food": 8, "vehicle": 7}
    assert {"kind": "duplicates", "identical_bytes": 0, "near": 1} in records
    assert "pe duplicates --index set.lance" in done.stderr
    page = (home / "report.html").read_text(encoding="utf-8")
    assert page.count("<img src=") == len([one for one in records if "uri" in one]) + 1
    assert "carrot.webp" in page


def test_a_folder_is_indexed_in_the_cache_and_then_reused(home):
    first = pe("clean", "set", "--model", "pe-nano", "--only", "blank", folder=home)
    assert "broken.png" in first.stderr
    assert first.returncode == 1  # of the broken one; the others are done
    assert "plain.png" in first.stdout
    again = pe("clean", "set", "--model", "pe-nano", "--only", "blank", folder=home)
    assert "28 skipped" in again.stderr
    assert not (home / "set" / "_pe").exists()


def test_paths_of_some_kinds(home):
    done = pe("clean", "set.lance", "--only", "blurry", "--only", "blank", "-0", folder=home)
    names = {Path(name).stem for name in output(done).split("\0") if name}
    assert names == {"fog", "plain"}
    listed = pe("clean", "set.lance", "--only", "blurry", "--paths", folder=home)
    assert output(listed).endswith("fog.png\n")


def test_wrong_use_is_refused(home):
    for options, message in (
        (("nowhere.lance",), "no index"),
        (("set.lance", "--only", "ugly"), "unknown kind"),
        (("set.lance", "--threshold", "2"), "cosine"),
        (("set.lance", "--outlier-rate", "nan"), "outlier-rate"),
        (("set.lance", "--label-column", "species"), "no column 'species'"),
        (("set.lance", "--report", "no/where.html"), "no such folder"),
    ):
        done = pe("clean", *options, folder=home)
        assert done.returncode in (1, 2)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_images_are_chosen_and_listed(home):
    options = ("--index", "set.lance", "-n", "4")
    diverse = output(pe("select", *options, folder=home)).splitlines()
    assert len(set(diverse)) == 4
    assert all(Path(name).exists() for name in diverse)
    assert output(pe("select", *options, folder=home)).splitlines() == diverse
    typical = pe(
        "select", *options, "--by", "representative", "-0", "--sheet", "some.png", folder=home
    )
    assert output(typical).count("\0") == 4
    with Image.open(home / "some.png") as drawn:
        assert drawn.width > 300
    each = lines(pe("select", *options, "--per-class", "--label-folders", "--json", folder=home))
    assert [one["label"] for one in each] == ["animal"] * 4 + ["food"] * 4 + ["vehicle"] * 4


def test_uncertain_images_by_texts_and_by_the_labels_of_the_index(home):
    base = ("select", "--index", "set.lance", "-n", "3", "--by", "uncertain")
    texts = pe(*base, "--labels", "an animal,a vehicle", "--json", folder=home)
    assert len(lines(texts)) == 3
    own = lines(pe(*base, "--label-folders", "--json", folder=home))
    assert [one["score"] for one in own] == sorted(one["score"] for one in own)
    refused = pe("select", "--index", "set.lance", "--labels", "cat,dog", folder=home)
    assert refused.returncode == 2
    assert "--by uncertain" in refused.stderr
