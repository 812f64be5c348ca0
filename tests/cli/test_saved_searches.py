"""`pe search --save` and `pe searches`: what is kept, what is new, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from cli.command import lines, pe
from PIL import Image, ImageDraw

COLORS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 70, 220)}


def draw(path: Path, color: tuple[int, int, int], side: int = 40) -> None:
    image = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(image).rectangle((15, 5, 15 + side, 5 + side), fill=color)
    image.save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    (root / "in").mkdir()
    for name, color in COLORS.items():
        draw(root / "in" / f"{name} square.png", color)
    indexed = pe("index", "in", "--index", "t.lance", folder=root)
    assert indexed.returncode == 0, indexed.stderr
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "t.lance", tmp_path / "t.lance")
    shutil.copytree(made / "in", tmp_path / "in")
    return tmp_path


@pytest.fixture
def indexed(folder: Path) -> Path:
    """A folder with an index of its own images, not of those that it is a copy of."""
    shutil.rmtree(folder / "t.lance")
    assert pe("index", "in", "--index", "t.lance", folder=folder).returncode == 0
    return folder


def searches(folder: Path, *arguments: str) -> list[dict]:
    done = pe("searches", *arguments, "--index", "t.lance", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_search_is_saved_listed_run_and_removed(folder: Path) -> None:
    query = ("search", "@red square.png", "--text", '"square"', "-k", "2", "--where", "width = 80")
    saved = pe(*query, "--save", "my squares", "--index", "t.lance", "--json", folder=folder)
    assert "pe searches run 'my squares'" in saved.stderr
    found = lines(saved)
    (listed,) = searches(folder)
    assert listed["name"] == "my squares"
    assert listed["text"] == '"square"'
    assert listed["options"] == {"k": 2, "where": "width = 80"}
    assert listed["last_run_at"] >= listed["saved_at"]
    assert searches(folder, "run", "my squares") == found
    shown = pe("searches", "--index", "t.lance", folder=folder).stdout
    assert '@red square.png text: "square"' in shown
    removed = pe("searches", "remove", "my squares", "--index", "t.lance", folder=folder)
    assert removed.returncode == 0
    assert searches(folder) == []


def test_only_what_is_new_since_the_last_run_is_shown(indexed: Path) -> None:
    folder = indexed
    pe("search", "--text", "square", "--save", "squares", "--index", "t.lance", folder=folder)
    run = ("searches", "run", "squares", "--since-last", "--index", "t.lance")
    nothing = pe(*run, folder=folder)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    draw(folder / "in" / "yellow square.png", (230, 220, 30))
    draw(folder / "in" / "red square.png", COLORS["red"], side=30)  # indexed again, not new
    assert pe("index", "in", "--index", "t.lance", folder=folder).returncode == 0
    (path,) = pe(*run, "--paths", folder=folder).stdout.splitlines()
    assert path.endswith("yellow square.png")
    assert pe(*run, folder=folder).returncode == 1
    assert len(searches(folder, "run", "squares")) == 4


def test_new_hits_that_are_not_shown_stay_new(indexed: Path) -> None:
    folder = indexed
    saved = pe(
        *("search", "--text", "square", "-k", "2", "--save", "squares", "--index", "t.lance"),
        folder=folder,
    )
    assert "2 of 3 hits shown; all of them count as seen" in saved.stderr
    for number in range(5):
        draw(folder / "in" / f"{number} square.png", (10 + 50 * number, 90, 90))
    assert pe("index", "in", "--index", "t.lance", folder=folder).returncode == 0
    run = ("searches", "run", "squares", "--since-last", "--paths", "--index", "t.lance")
    first = pe(*run, folder=folder)
    assert "2 of 5 new hits shown; the others stay new (-k 5 shows all at once)" in first.stderr
    rest = pe(*run, "-k", "9", folder=folder)
    assert rest.stderr == ""
    shown = first.stdout.splitlines() + rest.stdout.splitlines()
    assert sorted(Path(one).name for one in shown) == [f"{n} square.png" for n in range(5)]
    assert pe(*run, folder=folder).returncode == 1


def test_a_better_hit_hides_no_new_one(indexed: Path) -> None:
    """The new image is beyond the best one, which has been seen."""
    folder = indexed
    query = ("search", "@red square.png", "--threshold", "-1", "-k", "1", "--save", "red")
    pe(*query, "--index", "t.lance", folder=folder)
    draw(folder / "in" / "cyan square.png", (35, 225, 225))
    assert pe("index", "in", "--index", "t.lance", folder=folder).returncode == 0
    run = ("searches", "run", "red", "--index", "t.lance", "--paths")
    assert "cyan" not in pe(*run, folder=folder).stdout
    (path,) = pe(*run, "--since-last", folder=folder).stdout.splitlines()
    assert path.endswith("cyan square.png")


def test_errors_differ_from_nothing_new(folder: Path) -> None:
    run = ("searches", "run", "none", "--index", "t.lance")
    for since_last, code in (((), 1), (("--since-last",), 2)):
        refused = pe(*run, *since_last, folder=folder)
        assert refused.returncode == code
        assert "has no saved search 'none'" in refused.stderr


def test_an_image_of_a_query_may_be_gone_later(folder: Path) -> None:
    draw(folder / "query.png", COLORS["green"], side=35)
    saved = pe("search", "query.png", "--save", "g", "--index", "t.lance", "--json", folder=folder)
    (listed,) = searches(folder)
    assert listed["terms"][0]["value"] == str(folder / "query.png")
    (folder / "query.png").unlink()
    assert searches(folder, "run", "g") == lines(saved)


def test_the_same_name_replaces_and_other_rows_stay(folder: Path) -> None:
    for query in ("@red square.png", "@blue square.png"):
        pe("search", query, "--save", "one", "--index", "t.lance", folder=folder)
    pe("search", "--text", "green", "--save", "Two", "--index", "t.lance", folder=folder)
    assert [one["query"] for one in searches(folder)] == ["@blue square.png", "text: green"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("red", "--save", "a/b"), "cannot name a search"),
        (("red", "--save", ""), "cannot name a search"),
        (("-", "--save", "stdin"), "image on stdin"),
        (("--queries", "-", "--save", "many"), "--save keeps one query"),
        (("--text", "???", "--save", "none"), "has no word"),
        (("--text", "red", "--where", "nothing = 1", "--save", "wrong"), "no column 'nothing'"),
        (("--text", "red", "-k", "20000", "--save", "deep"), "up to 10,000 hits"),
    ],
)
def test_what_cannot_be_run_again_is_not_saved(
    folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    refused = pe("search", *arguments, "--index", "t.lance", folder=folder)
    assert refused.returncode in (1, 2)
    assert said in refused.stderr
    assert searches(folder) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1, "searches": [{"name": "a"}]}', "is damaged"),
        ('{"format": 99, "searches": []}', "newer version"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, content: str, said: str) -> None:
    (folder / "t.lance" / "_pe" / "searches.json").write_text(content)
    refused = pe("searches", "--index", "t.lance", folder=folder)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "searches.json" in refused.stderr
    assert "Traceback" not in refused.stderr
