"""`pe index --reembed`: what it says, writes and refuses."""

import json
import shutil
from pathlib import Path

import pytest
from cli.command import lines, pe, pe_ending
from small_models import WITHOUT_TEXT, open_tiny, save_drawings


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawings, their index by pe-nano, and another model in a folder."""
    root = tmp_path_factory.mktemp("work")
    (root / "in").mkdir()
    save_drawings(root / "in", 4)
    open_tiny(WITHOUT_TEXT, tokenizer=None).save_pretrained(root / "tiny")
    pe_ending("index", "in", "--index", "before.lance", folder=root)
    return root


@pytest.fixture
def index(root: Path, request: pytest.FixtureRequest) -> str:
    """The name of a copy of the index."""
    name = f"{request.node.name.split('[')[0]}.lance"
    shutil.copytree(root / "before.lance", root / name)
    return name


def test_the_model_of_an_index_is_changed_and_changed_back(root: Path, index: str) -> None:
    found = pe_ending("search", "a cat", "--json", "--index", index, folder=root).stdout
    # PE_MODEL is the model of new indexes and of searches.
    done = pe_ending("index", "--reembed", "tiny", "--json", "--index", index, folder=root,
                     PE_MODEL="pe-nano")  # fmt: skip
    assert "embedding 4 images again: pe-nano → tiny/images; about" in done.stderr
    assert "4 images have embeddings of tiny/images now, no longer of pe-nano" in done.stderr
    (record,) = lines(done)
    assert record["status"] == "reembedded"
    assert (record["model"], record["model_before"]) == ("tiny/images", "pe-nano")
    assert (record["embedded"], record["left_behind"], record["rows"]) == (4, 0, 4)
    assert "tiny/images" in pe("indexes", "info", "--index", index, folder=root).stdout
    refused = pe("search", "a cat", "--model", "pe-nano", "--index", index, folder=root)
    assert f"pe index --reembed pe-nano --index {index}" in refused.stderr
    similar = pe_ending("search", "in/drawing2.png", "--model", "tiny", "--paths", "-k1",
                        "--index", index, folder=root)  # fmt: skip
    assert similar.stdout.strip().endswith("drawing2.png")
    pe_ending("index", "--reembed", "pe-nano", "--index", index, folder=root)
    again = pe_ending("search", "a cat", "--json", "--index", index, folder=root).stdout
    scores = [
        [round(json.loads(line)["score"], 2) for line in one.splitlines()] for one in (found, again)
    ]
    assert scores[0] == scores[1]


def test_saved_searches_are_embedded_again_or_named(root: Path, index: str) -> None:
    for name, query in (("by image", "in/drawing2.png"), ("by text", "a cat")):
        pe_ending("search", query, "--save", name, "--index", index, folder=root)
    done = pe_ending("index", "--reembed", "tiny", "--index", index, folder=root)
    assert "the saved search 'by text' has no embedding of this model" in done.stderr
    assert "by image" not in done.stderr
    # No model is given, and the one that the index names is in no folder that is known.
    found = pe_ending("searches", "run", "by image", "--paths", "--index", index, folder=root)
    assert found.stdout.splitlines()[0].endswith("drawing2.png")


def test_the_present_model_has_nothing_to_do(root: Path, index: str) -> None:
    done = pe_ending("index", "--reembed", "pe-nano", "--index", index, folder=root)
    assert "has embeddings of pe-nano already; nothing to do" in done.stderr
    other = pe_ending("index", "--reembed", "pe-nano", "--preprocess", "fast", "--index", index,
                      folder=root)  # fmt: skip
    assert "pe-nano (standard) → pe-nano (fast)" in other.stderr
    assert "4 embedded" in other.stderr


def test_images_that_are_gone_are_named_and_left_behind_on_request(root: Path, index: str) -> None:
    gone = root / "in" / "drawing1.png"
    gone.rename(root / "kept.png")
    try:
        ended = pe_ending("index", "--reembed", "tiny", "--json", "--index", index, folder=root,
                          returns=1)  # fmt: skip
        failure = json.loads(ended.stdout)
        assert (failure["status"], failure["reason"]) == ("failed", "ImageNotFoundError")
        assert "1 of 4 images cannot be read any more (1 are gone)" in ended.stderr
        assert "drawing1.png" in ended.stderr
        assert "Traceback" not in ended.stderr
        shown = pe_ending("indexes", "info", "--index", index, folder=root).stdout
        assert "tiny/images, 3 rows" in shown
        assert "pe-nano" in shown
        left = pe_ending("index", "--reembed", "tiny", "--leave-missing", "gone.jsonl", "--index",
                         index, folder=root)  # fmt: skip
        assert "1 image that cannot be read any more" in left.stderr
        (line,) = (root / "gone.jsonl").read_text().splitlines()
        assert json.loads(line)["uri"] == str(gone)
    finally:
        (root / "kept.png").rename(gone)


@pytest.mark.parametrize(
    "arguments",
    [
        ("in", "--reembed", "tiny"),
        ("--reembed", "tiny", "--tiles", "2x2"),
        ("--reembed", "tiny", "--prune"),
        ("--reembed", "tiny", "--refresh-metadata"),
        ("in", "--leave-missing", "gone.jsonl"),
    ],
)
def test_options_that_do_not_fit_are_refused(root: Path, arguments: tuple[str, ...]) -> None:
    ended = pe("index", *arguments, "--index", "before.lance", folder=root)
    assert ended.returncode == 2
    assert "goes w" in ended.stderr
