"""`pe search` and `pe similar` as people run them: the index's own vectors need no model."""

import contextlib
import fcntl
import json
import os
import pty
import stat
import struct
import subprocess
import sys
import tarfile
import termios
from importlib.resources import files
from pathlib import Path

import cli.terminal_decoders as decode
import numpy as np
import pytest
from child_processes import build_environment
from cli.command import PE, invoke, lines, pe, pe_inside
from PIL import Image, ImageDraw
from typer.testing import Result

from perception_encoder.analysis.contact_sheet import SheetHit, SheetLayout, SheetRow

COLORS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 70, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three squares in a folder, three discs in a tar, and an index of them."""
    root = tmp_path_factory.mktemp("work")
    (root / "in").mkdir()
    with tarfile.open(root / "discs.tar", "w") as archive:
        for name, color in COLORS.items():
            for shape in ("ellipse", "rectangle"):
                image = Image.new("RGB", (80, 60), "white")
                getattr(ImageDraw.Draw(image), shape)((15, 5, 65, 55), fill=color)
                image.save(root / "in" / f"{name} {shape}.png")
            archive.add(root / "in" / f"{name} ellipse.png", f"d/{name}.png")
            (root / "in" / f"{name} ellipse.png").unlink()
    made = pe("index", "in", "discs.tar", "--index", "t.lance", folder=root)
    assert made.returncode == 0, made.stderr
    return root


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, given: bytes = b""
) -> Result:
    """Run `pe` in this process: for what needs no model."""
    monkeypatch.chdir(folder)
    command, *rest = arguments
    return invoke(command, "--index", "t.lance", *rest, given=given)


def hits(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


LIGHT = """
import sys
from perception_encoder.cli.main import main
try: main()
except SystemExit as end: code = end.code
heavy = {"torch", "safetensors", "httpx2", "httpx", "fsspec"} & set(sys.modules)
sys.exit(code or (f"loaded {heavy}" if heavy else 0))
"""


@pytest.mark.parametrize("item", ["in/red rectangle.png", "@d/red.png", "@red rectangle.png"])
def test_what_is_in_the_index_is_found_without_a_model(folder: Path, item: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, "similar", item, "--index", "t.lance", "--json"],
        cwd=folder, capture_output=True, text=True, check=False, env=build_environment(folder),
    )  # fmt: skip
    found = lines(done)
    assert len(found) == 5
    assert all(not f"{hit['uri']}/{hit['member']}".endswith(item) for hit in found)


def test_several_queries_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"@red rectangle.png\n\n  @d/blue.png - @d/green.png\n"
    found = hits(run(folder, monkeypatch, "search", "--queries", "-", "-k2", "--json", given=text))
    assert [hit["query"] for hit in found] == [
        *["@red rectangle.png"] * 2, *["@d/blue.png - @d/green.png"] * 2
    ]  # fmt: skip
    assert str(found[0]["uri"]).endswith("red rectangle.png")
    assert found[2]["member"] in ("d/blue.png", None)
    (folder / "queries.txt").write_bytes(text)
    from_file = run(folder, monkeypatch, "search", "--queries", "queries.txt", "-k2", "--json")
    assert hits(from_file) == found
    index = run(folder, monkeypatch, "search", "--queries", "queries.txt", "-k2").stdout
    assert index.count("score") == 2
    assert "\n@d/blue.png - @d/green.png\n" in index


def test_a_text_is_found_in_names_without_a_model(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, "search", "--text", "ellipse red", "--index", "t.lance"],
        cwd=folder, capture_output=True, text=True, check=False, env=build_environment(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heading, first, *others = done.stdout.splitlines()
    assert heading.split() == ["BM25", "image"]
    assert "red" in first
    assert len(others) == 1  # ellipses are discs in the archive


def test_scores_of_texts_say_what_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = hits(run(folder, monkeypatch, "search", "--text", '"green rectangle"', "--json"))
    assert str(found["uri"]).endswith("green rectangle.png")
    assert found["score_kind"] == "bm25"
    assert found["score"] == found["text_score"]
    assert found["cosine"] is None
    query = ("search", "@d/red.png", "--text", "blue")
    fused = hits(run(folder, monkeypatch, *query, "--json"))
    assert len(fused) == 6
    assert {hit["score_kind"] for hit in fused} == {"fusion"}
    assert sum(hit["text_score"] is not None for hit in fused) == 2
    heading = run(folder, monkeypatch, *query).stdout.splitlines()[0]
    assert heading.split() == ["fused", "cosine", "image"]
    by_text = hits(run(folder, monkeypatch, *query, "--text-weight", "1", "--json"))
    assert all("blue" in f"{hit['uri']}/{hit['member']}" for hit in by_text)
    page = hits(run(folder, monkeypatch, *query, "-k2", "--offset", "2", "--json"))
    assert [hit["id"] for hit in page] == [hit["id"] for hit in fused[2:4]]


def test_a_text_is_fused_with_every_query(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "many.txt").write_text("@d/red.png\n@red rectangle.png\n")
    fused = ("--text", "blue", "-k2", "--json")
    many = hits(run(folder, monkeypatch, "search", "--queries", "many.txt", *fused))
    one = hits(run(folder, monkeypatch, "search", "@d/red.png", *fused))
    assert [hit["id"] for hit in many[:2]] == [hit["id"] for hit in one]
    assert [hit["query"] for hit in many] == ["@d/red.png"] * 2 + ["@red rectangle.png"] * 2
    assert {hit["score_kind"] for hit in many} == {"fusion"}


def test_a_text_is_fused_with_what_looks_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hits(run(folder, monkeypatch, "similar", "@d/red.png", "--text", "blue", "--json"))
    plain = hits(run(folder, monkeypatch, "similar", "@d/red.png", "--json"))
    assert {hit["id"] for hit in found} == {hit["id"] for hit in plain}  # without the image itself
    assert "blue" in f"{found[0]['uri']}/{found[0]['member']}"
    assert {hit["score_kind"] for hit in found} == {"fusion"}


def test_texts_that_cannot_be_searched_for_are_refused(folder: Path) -> None:
    for arguments, said in (
        (("--text", "?!"), "has no word to search for"),
        (("--text", "red", "--threshold", "0.2"), "a threshold is a cosine"),
        (("red", "--text", "red", "--queries", "-"), "--queries goes with no other query"),
        ((), "give a query, a --text, or a file of queries"),
        (("--text", "red", "--where", "nothing = 1"), "there is no column 'nothing'"),
    ):
        refused = pe("search", *arguments, "--index", "t.lance", folder=folder)
        assert refused.returncode in (1, 2)
        assert said in refused.stderr
    nothing = pe("search", "--text", "walrus", "--index", "t.lance", folder=folder)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "nothing found" in nothing.stderr


def test_a_wrong_line_among_queries_is_named(folder: Path) -> None:
    refused = pe("search", "--queries", "-", "--index", "t.lance", folder=folder, given="a\nb +\n")
    assert refused.returncode == 1
    assert "pe: -, line 2: at character 3" in refused.stderr
    image = pe("search", "--queries", "-", "--index", "t.lance", folder=folder, given="-\n")
    assert "-, line 1: - is the image on stdin" in image.stderr


def test_the_image_on_stdin_is_searched_for(folder: Path) -> None:
    data = (folder / "in" / "green rectangle.png").read_bytes()
    index_path = str(folder / "t.lance")
    (hit,) = pe_inside("similar", "-", "--index", index_path, "-k1", "--json", given=data).records()
    assert str(hit["uri"]).endswith("green rectangle.png")


def test_unique_and_preview_take_no_query_for_their_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = run(folder, monkeypatch, "search", "--unique", "@d/red.png", "--preview", "--json")
    found = hits(loose)
    assert "no preview: this terminal shows no colors" in loose.stderr
    tight = hits(run(folder, monkeypatch, "search", "--unique=0.1", "@d/red.png", "--json"))
    assert len(tight) < len(found)
    names = [tight[0]["member"], *(str(name) for hit in tight for name in hit.get("also", []))]  # type: ignore[attr-defined]
    assert len(names) + len(tight) - 1 == 6
    assert "discs.tar/d/" in "".join(map(str, names))
    index = run(folder, monkeypatch, "search", "--unique=0.1", "@d/red.png").stdout
    assert f"d/red.png  +{len(tight[0]['also'])}" in index  # type: ignore[arg-type]


def test_pages_and_names_of_members(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = run(folder, monkeypatch, "search", "@d/red.png", "--paths").stdout.splitlines()
    assert len(everything) == 6
    assert everything[0] == str(folder / "discs.tar" / "d" / "red.png")
    page = run(folder, monkeypatch, "search", "@d/red.png", "-0", "-k2", "--offset", "2").stdout
    assert page.split("\0") == [*everything[2:4], ""]
    beyond = run(folder, monkeypatch, "search", "@d/red.png", "--offset", "6", "--json")
    assert (beyond.exit_code, beyond.stdout) == (0, "")
    assert "nothing found" in beyond.stderr


def middle(sheet: Image.Image, box: tuple[int, int, int, int]) -> tuple[int, ...]:
    pixel = sheet.getpixel(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2))
    assert isinstance(pixel, tuple)
    return pixel


def test_a_sheet_shows_images_inside_archives(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = tmp_path / "hits.png"
    run(folder, monkeypatch, "similar", "@d/red.png", "--sheet", str(sheet))
    listed = run(folder, monkeypatch, "similar", "@d/red.png", "--paths").stdout.splitlines()
    (page,) = SheetLayout(224).place([SheetRow([SheetHit(b"", 0)] * len(listed))])
    with Image.open(sheet) as drawn:
        assert middle(drawn, page.blocks[0].query) == COLORS["red"]
        for box, name in zip(page.blocks[0].hits, listed, strict=True):
            color = Path(name).stem.split()[0]
            assert middle(drawn, box) == COLORS[color]


def test_a_preview_is_talk_and_shows_the_hits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = run(folder, monkeypatch, "search", "@d/blue.png", "-k2", "--json", "--preview=kitty")
    assert len(hits(shown)) == 2
    ((_, strip),) = decode.kitty(shown.stderr)
    left = strip[strip.shape[0] // 2, strip.shape[1] // 4, :3]
    assert np.abs(left.astype(int) - COLORS["blue"]).max() < 10
    assert "1.000 blue" in shown.stderr


def test_a_terminal_is_asked_what_it_can_and_how_large_it_is(folder: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 900, 720))
    process = subprocess.Popen(
        [*PE, "search", "@d/red.png", "-k5", "--preview", "--index", "t.lance"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
        env=build_environment(folder, TERM="xterm-kitty"),
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    assert process.wait() == 0
    ((keys, strip),) = decode.kitty(seen.decode())
    assert (keys["c"], keys["r"]) == ("100", "10")  # five of 20 columns, 9 x 18 pixels a letter
    assert strip.shape == (180, 900, 4)


def test_hits_are_opened_in_the_viewer(folder: Path, tmp_path: Path) -> None:
    viewer = tmp_path / "xdg-open"
    viewer.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/opened\n')
    viewer.chmod(viewer.stat().st_mode | stat.S_IXUSR)
    done = pe(
        "search", "@d/red.png", "--open", "-k6", "--index", "t.lance", folder=folder,
        PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", TMPDIR=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    opened = [Path(line) for line in (tmp_path / "opened").read_text().splitlines()]
    assert len(opened) == 6
    assert opened[0].name == "1-red.png"
    with tarfile.open(folder / "discs.tar") as archive:
        member = archive.extractfile("d/red.png")
        assert member is not None
        assert opened[0].read_bytes() == member.read()
    assert folder / "in" / "red rectangle.png" in opened


def test_without_a_viewer_it_is_said_what_else_to_use(folder: Path, tmp_path: Path) -> None:
    done = pe(
        "search", "@d/red.png", "--open", "--index", "t.lance", folder=folder, PATH=str(tmp_path)
    )
    assert done.returncode == 1
    assert "--open needs the program" in done.stderr
    assert len(done.stdout.splitlines()) == 7


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 40 drawings of the bundled gallery."""
    root = tmp_path_factory.mktemp("gallery")
    (root / "in").mkdir()
    drawings = files("perception_encoder").joinpath("data/gallery")
    for name in sorted(e.name for e in drawings.iterdir() if e.name.endswith(".webp"))[:320:8]:
        (root / "in" / name).write_bytes(drawings.joinpath(name).read_bytes())
    made = pe("index", "in", "--index", "t.lance", folder=root)
    assert made.returncode == 0, made.stderr
    return root


def test_hits_say_how_well_they_fit(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (gallery / "t.lance" / "_pe" / "background.npz").unlink(missing_ok=True)
    first = pe("search", "a red heart", "--index", "t.lance", "--json", "-k40", folder=gallery)
    assert first.returncode == 0, first.stderr
    assert "learning what scores mean" in first.stderr
    labels = [json.loads(line)["label"] for line in first.stdout.splitlines()]
    assert len(labels) == 40
    assert sorted(labels, key=["strong", "weak", "none"].index) == labels
    assert labels[-1] == "none"
    again = pe("search", "a red heart", "--index", "t.lance", "--json", "-k40", folder=gallery)
    assert again.stdout == first.stdout
    assert again.stderr == ""
    best = run(gallery, monkeypatch, "similar", "@angry-face.webp", "--json", "-k40")
    strong = run(
        gallery, monkeypatch, "similar", "@angry-face.webp", "-k40", "--threshold", "strong",
        "--json",
    )  # fmt: skip
    assert hits(strong) == [hit for hit in hits(best) if hit["label"] == "strong"]
    index = run(gallery, monkeypatch, "similar", "@angry-face.webp", "-k40").stdout
    assert index.splitlines()[0].split() == ["score", "label", "image"]
    assert index.splitlines()[-1].split()[1] == "-"


def test_it_is_said_when_there_is_nothing_like_it(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "@angry-face.webp"
    later = run(gallery, monkeypatch, "search", query, "--offset", "30", "-k2")
    assert later.stderr == ""  # of a later page that is to be expected
    furthest = hits(run(gallery, monkeypatch, "search", query, "--offset", "30", "--json"))[-1]
    only = ["--where", f"id = '{furthest['id']}'"]
    far = run(gallery, monkeypatch, "search", query, *only)
    assert far.exit_code == 0
    assert "none is likely" in far.stderr
    assert len(far.stdout.splitlines()) == 2
    none = run(gallery, monkeypatch, "search", query, *only, "--threshold", "weak", "--json")
    assert (none.exit_code, none.stdout) == (0, "")
    assert "nothing found" in none.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "give a query, a --text, or a file of queries"),
        (["search", "a", "--queries", "x"], "--queries goes with no other query"),
        (["search", "a", "--threshold", "high"], "threshold"),
        (["search", "a", "--threshold", "2"], "cosine from -1 to 1"),
        (["search", "a", "--unique=2"], "unique must be a cosine"),
        (["search", "a", "--preview=gif"], "gif"),
        (["search", "a", "--offset", "-1"], "offset"),
        (["similar", "none.png"], "none.png: no such file"),
    ],
)
def test_wrong_usage_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    refused = run(folder, monkeypatch, *arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
