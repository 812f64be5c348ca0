"""`pe search --rerank`: tables, JSON, reports and refusals."""

import json
import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from cli.command import output, pe, pe_ending, pe_inside
from small_models import WITHOUT_TEXT, open_tiny

from perception_encoder import AutoModel

NAMES = ("cat", "dog", "red-heart", "blue-heart", "banana", "taxi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings, an index of pe-nano, and another model in `tiny`."""
    root = tmp_path_factory.mktemp("work")
    (root / "in").mkdir()
    with as_file(files("perception_encoder").joinpath("data/gallery")) as source:
        for name in NAMES:
            shutil.copy(source / f"{name}.webp", root / "in")
    pe_ending("index", "in", "--index", "t.lance", folder=root)
    open_tiny(WITHOUT_TEXT).save_pretrained(root / "tiny")
    return root


def test_hits_are_ordered_and_reported(folder: Path) -> None:
    command = ("search", "in/red-heart.webp", "--index", "t.lance", "--rerank", "tiny")
    done = pe(*command, "-k", "4", "--candidates", "5", "--json", folder=folder)
    hits = [json.loads(line) for line in output(done).splitlines()]
    assert "reranked 5 hits with tiny/images: 5 images embedded in " in done.stderr
    tiny = AutoModel.from_pretrained(folder / "tiny", device="cpu")
    cosines = tiny.similarity(
        tiny.embed_images([folder / "in" / "red-heart.webp"]),
        tiny.embed_images([hit["uri"] for hit in hits]),
    )[0]
    assert [hit["score"] for hit in hits] == pytest.approx(cosines.tolist(), abs=0.01)
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert {hit["score_kind"] for hit in hits} == {"rerank"}
    assert {hit["label"] for hit in hits} == {None}
    plain = output(pe(*command[:4], "--json", folder=folder)).splitlines()
    first = {one["uri"]: one["score"] for one in map(json.loads, plain)}
    assert all(hit["cosine"] == first[hit["uri"]] for hit in hits)
    again = pe(*command, folder=folder)
    header, best, *_ = output(again).splitlines()
    assert header.split() == ["reranked", "cosine", "image"]
    assert [float(one) for one in best.split()[:2]] == pytest.approx([1, 1], abs=0.01)
    assert "reranked 6 hits with tiny/images: 1 image embedded" in again.stderr
    assert "5 known" in again.stderr


def test_what_cannot_be_read_is_counted_and_comes_last(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "w")
    root = tmp_path / "w"
    pe_ending("index", "in", "--index", "u.lance", folder=root)
    (root / "in" / "taxi.webp").unlink()
    command = ("search", "in/cat.webp", "--index", "u.lance", "--rerank", "tiny")
    done = pe(*command, folder=root)
    *_, last = output(done).splitlines()
    assert last.split()[0] == "-"
    assert last.endswith("taxi.webp")
    assert re.search(r"5 images embedded in [\d:]+, 1 not readable, which come last\n", done.stderr)
    assert "there is no file" in done.stderr
    # A query of a file that the second model cannot embed is reported; the others are answered.
    (root / "queries.txt").write_text("@taxi.webp\nin/dog.webp\n")
    several = ("search", "--queries", "queries.txt", "--index", "u.lance", "--rerank", "tiny")
    done = pe_ending(*several, "-k", "1", "--json", folder=root, returns=1)
    assert [json.loads(line)["query"] for line in done.stdout.splitlines()] == ["in/dog.webp"]
    assert "queries.txt, line 1" in done.stderr
    assert "1 query not answered" in done.stderr


def test_stdin_and_marks(folder: Path) -> None:
    command = ("search", "-", "--index", "t.lance", "--rerank", "tiny", "-k", "1", "--paths")
    given = (folder / "in" / "banana.webp").read_bytes()
    done = pe_inside(
        *(one if one not in ("t.lance", "tiny") else str(folder / one) for one in command),
        given=given,
    )
    assert done.code == 0, done.err
    assert done.out.decode().strip().endswith("banana.webp")
    marked = pe("search", "--like", "@cat.webp", "@dog.webp", "--index", "t.lance",
                "--rerank", "tiny", "--paths", folder=folder)  # fmt: skip
    names = {Path(line).stem for line in output(marked).splitlines()}
    assert names == set(NAMES) - {"cat", "dog"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cat", "--candidates", "5"), "--candidates goes with --rerank"),
        (("cat", "--rerank", "tiny", "--text", "cat"), "leave out --text"),
        (("cat", "--rerank", "tiny", "-k", "101"), "write --candidates 101 or more"),
        (("cat", "--rerank", "tiny", "--save", "a"), "leave out --rerank"),
        (("cat", "--rerank", "pe-nano"), "embedded by pe-nano already"),
        (("cat", "--rerank", "tiny"), "text"),
        (("cat", "--rerank", "no-such-model"), "no-such-model"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = pe("search", *arguments, "--index", "t.lance", folder=folder)
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
