"""The `pe` command as people run it: real files, the bundled model."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow.parquet as pq
import pytest
from child_processes import build_environment
from cli.command import PE, lines, output, pe, pe_inside, pe_process
from PIL import Image, ImageDraw

COLORS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 70, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with images of discs and squares, and an index of them."""
    root = tmp_path_factory.mktemp("work")
    (root / "images" / "deep").mkdir(parents=True)
    for name, color in COLORS.items():
        for shape in ("ellipse", "rectangle"):
            image = Image.new("RGB", (80, 60), "white")
            getattr(ImageDraw.Draw(image), shape)((15, 5, 65, 55), fill=color)
            deep = "deep" if shape == "ellipse" else "."
            image.save(root / "images" / deep / f"{name} {shape}.png")
    (root / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    indexed = pe("index", "images", "--index", "t.lance", "--json", folder=root)
    assert indexed.returncode == 1, indexed.stderr
    outcomes = [json.loads(line) for line in indexed.stdout.splitlines()]
    assert sorted(o["status"] for o in outcomes) == ["embedded"] * 6 + ["failed"]
    assert "broken.png" in indexed.stderr
    return root


def test_help_and_version_need_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv=['pe', '--help']\n"
        "from perception_encoder.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch','lance','pyarrow','huggingface_hub','PIL','numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    assert output(pe("--version", folder=tmp_path)).strip().count(".") == 2


def test_help_groups_commands_and_cuts_no_summary() -> None:
    shown = pe_inside("-h").out.decode()
    assert shown == pe_inside("--help").out.decode()
    commands = shown.partition("Search your images:\n")[2]
    assert "with a web page for\n              searching." in commands
    assert "..." not in commands
    assert "Find the images" in pe_inside("search", "-h").out.decode()
    assert "Add the" in pe_inside("indexes", "import", "-h").out.decode()


def test_a_misspelled_command_or_option_gets_a_suggestion() -> None:
    assert "Did you mean 'search'" in pe_inside("serch", "dog").err
    assert "--sheet" in pe_inside("search", "dog", "--shet=x.png").err


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("pe se", ["search", "serve", "select", "searches"]),
        ("pe embed --model PE-Core-L", ["PE-Core-L14-336"]),
    ],
)
def test_shells_complete_commands_and_models(
    typed: str, completed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_PE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert pe_inside().out.decode().split() == completed


def test_running_again_reads_only_what_changed(folder: Path) -> None:
    again = pe("index", "images", "--index", "t.lance", folder=folder)
    assert "6 skipped" in again.stderr
    assert "1 failed" in again.stderr
    assert again.returncode == 1


def test_a_copy_reuses_its_vector(folder: Path, tmp_path: Path) -> None:
    original = folder / "images" / "red rectangle.png"
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "again.png").write_bytes(original.read_bytes())
    pe("index", str(folder / "images"), "--index", "t.lance", folder=tmp_path)
    copied = pe("index", "copies", "--index", "t.lance", folder=tmp_path)
    assert "1 reused" in copied.stderr
    hits = lines(
        pe("similar", str(original), "--index", "t.lance", "-k1", "--json", folder=tmp_path)
    )
    assert Path(str(hits[0]["uri"])).name == "again.png"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)


def test_similar_leaves_the_image_itself_out_and_is_ordered(folder: Path) -> None:
    image = "images/red rectangle.png"
    hits = lines(pe("similar", image, "--index", "t.lance", "--json", folder=folder))
    assert len(hits) == 5
    assert all(not str(hit["uri"]).endswith(image) for hit in hits)
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_search_takes_words_images_and_sums(folder: Path) -> None:
    image = "images/blue rectangle.png"
    by_image = lines(pe("search", image, "--index", "t.lance", "--json", folder=folder))
    assert str(by_image[0]["uri"]).endswith("blue rectangle.png")
    by_words = lines(pe("search", "a red circle", "--index", "t.lance", "--json", folder=folder))
    assert len(by_words) == 6
    summed = pe("search", image, "+", "red", "--index", "t.lance", "-k", "2", folder=folder)
    assert len(output(summed).splitlines()) == 3


def test_paths_are_fit_for_xargs(folder: Path) -> None:
    ended = output(pe("search", "red", "--index", "t.lance", "-0", "-k", "2", folder=folder))
    assert ended.count("\0") == 2
    assert all(Path(path).is_file() for path in ended.split("\0") if path)
    listed = output(pe("search", "red", "--index", "t.lance", "--paths", folder=folder))
    assert all(Path(path).is_file() for path in listed.splitlines())


def test_where_and_threshold_leave_rows_out(folder: Path) -> None:
    only = ["--where", "uri LIKE '%green%'", "--json", "--index", "t.lance"]
    hits = lines(pe("search", "red", *only, folder=folder))
    assert {Path(str(hit["uri"])).name for hit in hits} == {
        "green ellipse.png",
        "green rectangle.png",
    }
    nothing = pe("search", "red", "--threshold", "0.999", "--index", "t.lance", folder=folder)
    assert output(nothing) == ""
    assert "nothing found" in nothing.stderr


def test_a_sheet_is_drawn(folder: Path) -> None:
    output(pe("search", "red", "--index", "t.lance", "--sheet", "hits.png", folder=folder))
    with Image.open(folder / "hits.png") as sheet:
        assert sheet.width > sheet.height > 100


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.parquet"])
def test_embed_writes_each_format(folder: Path, tmp_path: Path, name: str) -> None:
    images = [f"images/{color} rectangle.png" for color in COLORS]
    out = tmp_path / name
    output(pe("embed", *images, "-o", str(out), folder=folder))
    if name.endswith("npy"):
        vectors = np.load(out)
    elif name.endswith("jsonl"):
        records = [json.loads(line) for line in out.read_text().splitlines()]
        assert [record["item"] for record in records] == images
        vectors = np.array([record["vector"] for record in records], np.float32)
    else:
        index = pq.read_table(out)
        assert index["item"].to_pylist() == images
        vectors = np.array(index["vector"].to_pylist(), np.float32)
    assert vectors.shape == (3, 192)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_embed_reads_names_and_texts_from_stdin(folder: Path) -> None:
    names = "images/red rectangle.png\0images/blue rectangle.png"
    assert len(lines(pe("embed", "-0", "-", folder=folder, given=names))) == 2
    texts = lines(pe("embed", "--text", "-", "--dim", "16", folder=folder, given="a cat\na dog\n"))
    assert [record["item"] for record in texts] == ["a cat", "a dog"]
    assert [len(record["vector"]) for record in texts] == [16, 16]


def test_compare_prints_the_best_first(folder: Path) -> None:
    same = "images/red rectangle.png"
    other = "images/blue rectangle.png"
    ranked = lines(pe("compare", same, other, same, "--json", folder=folder))
    assert ranked[0] == {"item": same, "score": pytest.approx(1, abs=1e-4)}


@pytest.mark.parametrize("command", [["compare", "a cat"], ["embed", "--text", "a cat"]])
def test_an_encoded_image_is_no_text(folder: Path, command: list[str]) -> None:
    result = pe(*command, "data:;base64,iVBORw0KGgo=", folder=folder)
    assert result.returncode == 1
    assert "2: this is the data URI of an image, not a text" in result.stderr


def test_models_lists_every_family_and_what_is_here(tmp_path: Path) -> None:
    models = {record["id"]: record for record in lines(pe("models", "--json", folder=tmp_path))}
    assert {m["family"] for m in models.values()} == {
        "pe-nano",
        "PE-Core",
        "PE-Spatial",
        "PE-Lang",
        "CLIP",
    }
    here = lines(pe("models", "--cached", "--json", folder=tmp_path))
    assert [record["id"] for record in here] == ["pe-nano"]
    assert models["clip/ViT-B-32"]["license"] == "MIT"
    notice = pe("models", folder=tmp_path).stderr
    assert "LICENSE.PE" in notice
    assert "LICENSE.PLM" in notice


def test_doctor_tells_what_would_run(tmp_path: Path) -> None:
    (facts,) = lines(pe("doctor", "--json", folder=tmp_path, PE_DEVICE="cpu"))
    assert str(facts["backend"]).startswith("openvino on cpu")
    assert str(facts["openvino"])[0].isdigit()  # of the backend, too, the version is told
    assert facts["offline"] == "yes (HF_HUB_OFFLINE)"
    assert str(tmp_path) in str(facts["default index"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "x", "--index", "none.lance"], 1, "none.lance"),
        (["similar", "none.jpg"], 2, "none.jpg: no such file"),
        (["compare", "none.jpg", "a"], 1, "none.jpg: no such file"),
        (["embed", "none.jpg"], 1, "none.jpg: no such file"),
        (["embed", "x.jpg", "-o", "x.csv"], 2, "must end in"),
        (["index", "none"], 1, "none: no such file or folder"),
        (["compare", "a", "b", "--model", "PE-Core-B17"], 1, "PE-Core-B16-224"),
        (["compare", "a", "b", "--model", "PE-Core-B16-224"], 1, "HF_HUB_OFFLINE"),
        (["compare", "a", "b", "--device", "tpu"], 1, "'cpu'"),
    ],
)
def test_an_error_is_one_clear_line(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    finished = pe(*arguments, folder=tmp_path)
    assert finished.returncode == code, finished.stderr
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == 1 or code == 2  # 2: with a line on usage
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""


def test_an_index_of_another_model_is_refused(folder: Path) -> None:
    other = pe("index", "images", "--index", "t.lance", "--preprocess", "reference", folder=folder)
    assert other.returncode == 1
    assert "reference" in other.stderr
    assert "standard" in other.stderr


def test_search_takes_the_model_and_the_preprocessing_from_the_index(
    folder: Path, tmp_path: Path
) -> None:
    images = str(folder / "images" / "deep")
    made = pe("index", images, "--index", "r.lance", "--preprocess", "reference", folder=tmp_path)
    output(made)
    assert len(lines(pe("search", "red", "--index", "r.lance", "--json", folder=tmp_path))) == 3


def test_names_that_are_not_unicode_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "in" / "a.png")
    os.rename(tmp_path / "in" / "a.png", os.fsencode(tmp_path) + b"/in/caf\xe9.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "in" / "b.png")
    finished = pe_process(
        "index", "in", "--index", "t.lance", folder=tmp_path, PYTHONIOENCODING="utf-8:strict"
    )
    assert finished.returncode == 1
    assert "1 embedded, 1 failed" in finished.stderr


def test_a_full_disk_is_an_error_and_a_closed_pipe_is_none(tmp_path: Path) -> None:
    def version(stdout: IO[str] | int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "perception_encoder.cli", "--version"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
        )

    with Path("/dev/full").open("w") as full:
        refused = version(full)
    assert refused.returncode == 1
    assert refused.stderr.startswith("pe: ")
    assert len(refused.stderr.splitlines()) == 1
    reading, writing = os.pipe()
    os.close(reading)
    closed = version(writing)
    os.close(writing)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_an_index_of_photos_by_the_bundled_model_is_noticed(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.png"):
        Image.new("RGB", (60, 60), "red").save(tmp_path / name)
    pe("index", ".", "--index", "t.lance", folder=tmp_path)
    for command in (["search", "red"], ["cluster"], ["classify", "-l", "red"]):
        shown = pe(*command, "--index", "t.lance", folder=tmp_path).stderr
        assert shown.count("this index holds photos") == 1
        assert "pe index --reembed PE-Core-S16-384 --index t.lance" in shown
    pe("index", "c.png", "--index", "drawings.lance", folder=tmp_path)
    assert "photos" not in pe("search", "red", "--index", "drawings.lance", folder=tmp_path).stderr


def test_a_new_index_asks_for_its_model_on_a_terminal(tmp_path: Path) -> None:
    Image.new("RGB", (60, 60), "red").save(tmp_path / "a.png")
    ours, theirs = pty.openpty()
    environment = build_environment(tmp_path) | {"HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen(
        [*PE, "index", "a.png"], cwd=tmp_path, env=environment,
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.write(ours, b"3\n2\n")
    assert process.wait(200) == 0
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # how the end of a terminal is read
        while part := os.read(ours, 100_000):  # a part of it at a time
            shown += part.decode()
    os.close(ours)
    assert "PE-Core-S16-384" in shown
    assert "1 embedded" in shown
    assert "pe-nano" in pe("indexes", "info", folder=tmp_path).stdout


def test_the_demo_runs_the_main_job(tmp_path: Path) -> None:
    shown = output(pe("demo", "out", folder=tmp_path))
    answers = [block.splitlines() for block in shown.strip().split("\n\n")]
    assert len(answers) == 5
    for heading, *hits in answers:
        assert heading
        assert len(hits) == 5
    with Image.open(tmp_path / "out" / "hits.png") as sheet:
        assert sheet.width > 1000
    assert (tmp_path / "out" / "gallery.lance").is_dir()
