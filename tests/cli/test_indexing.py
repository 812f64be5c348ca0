"""`pe index` and `pe errors` as people run them, with the bundled model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from child_processes import build_environment
from cli.command import PE, lines, output, pe, started
from small_models import drawing, save_drawings

from perception_encoder.index import Index, write_lock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with an index of images of which three cannot be used."""
    root = tmp_path_factory.mktemp("work")
    images = root / "images"
    images.mkdir()
    save_drawings(images, 5)
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.png").write_text("no image")
    (images / "later.png").symlink_to(root / "away.png")
    indexed = pe("index", "images", "--index", "t.lance", folder=root)
    assert indexed.returncode == 1, indexed.stderr
    assert "5 embedded, 3 failed" in indexed.stderr
    assert "drawings, not photos" in indexed.stderr  # of the model that nobody asked for
    assert indexed.stdout == ""
    return root


def test_errors_lists_what_failed_and_why(folder: Path) -> None:
    listed = lines(pe("errors", "--index", "t.lance", "--json", folder=folder))
    assert {Path(str(failure["uri"])).name: failure["reason"] for failure in listed} == {
        "empty.jpg": "ImageEmptyError",
        "later.png": "ImageNotFoundError",
        "text.png": "ImageDecodeError",
    }
    assert all(str(failure["uri"]) in str(failure["message"]) for failure in listed)
    index = pe("errors", "--index", "t.lance", folder=folder)
    assert len(output(index).splitlines()) == 4  # with the headings
    assert "pe index --retry-failed --index" in index.stderr
    paths = output(pe("errors", "--index", "t.lance", "-0", folder=folder))
    assert sorted(Path(path).name for path in paths.split("\0")[:-1]) == [
        "empty.jpg",
        "later.png",
        "text.png",
    ]


def test_retrying_needs_no_source_and_tries_only_failures(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "work", symlinks=True)
    work = tmp_path / "work"
    drawing(99).save(folder / "away.png")
    retried = pe("index", "--retry-failed", "--index", "t.lance", "--json", folder=work)
    (folder / "away.png").unlink()
    assert retried.returncode == 1
    statuses = {
        Path(o["uri"]).name: o["status"] for o in map(json.loads, retried.stdout.split("\n")[:-1])
    }
    assert statuses == {"empty.jpg": "failed", "later.png": "embedded", "text.png": "failed"}
    assert len(lines(pe("errors", "--index", "t.lance", "--json", folder=work))) == 2


def test_names_come_from_stdin_and_patterns_leave_out(folder: Path, tmp_path: Path) -> None:
    given = "\0".join(str(path) for path in (folder / "images").glob("drawing*.png"))
    options = ("--exclude", "drawing3.*", "--index", "t.lance")
    pe("index", "-0", "-", "--index", "t.lance", folder=tmp_path, given=given)
    assert Index.open(tmp_path / "t.lance").count() == 5
    again = pe("index", str(folder / "images"), *options, "--json", folder=tmp_path)
    statuses = Counter(json.loads(line)["status"] for line in again.stdout.splitlines())
    assert statuses == {"skipped": 4, "failed": 3}


def test_without_a_source_or_with_a_wrong_one_it_says_what_to_name(tmp_path: Path) -> None:
    for arguments, words in (((), "name a source"), (("nowhere",), "nowhere: no such file")):
        refused = pe("index", *arguments, "--index", "t.lance", folder=tmp_path)
        assert refused.returncode in (1, 2)
        assert words in refused.stderr
        assert not (tmp_path / "t.lance").exists()


def test_a_folder_without_images_leaves_no_index(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    for name, code, why in (
        ("empty", 0, "no images were found"),
        ("bad", 1, "none of 1 images could be read"),
    ):
        done = pe("index", name, "--index", "new/t.lance", folder=tmp_path)
        assert done.returncode == code
        assert f"new/t.lance: {why}, so no index was created" in done.stderr
        assert not (tmp_path / "new").exists()


def test_runs_that_wait_for_each_other_create_one_index(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_drawings(tmp_path / "in", 3)
    runs = [
        started("index", "in", "--index", "t.lance", "--wait", folder=tmp_path) for _ in range(2)
    ]
    told = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * 2, told
    assert sum("3 embedded" in text for text in told) == 1
    assert sum("3 skipped" in text for text in told) == 1
    assert Index.open(tmp_path / "t.lance").count() == 3


def test_what_sources_leave_out_is_said_by_every_command(tmp_path: Path) -> None:
    for name in ("[2019-12-25] trip", "@eaDir"):
        (tmp_path / "in" / name).mkdir(parents=True)
        save_drawings(tmp_path / "in" / name, 1)
    captions = "\n".join(
        ["path,caption", *(f"{path},x" for path in (tmp_path / "in").rglob("*.png")), 'y,"never']
    )
    (tmp_path / "t.csv").write_text(captions)
    note = "left out folders that a NAS or system keeps: @eaDir (1)"
    indexed = pe("index", "in", "--exclude", "[9-1]x", "--index", "t.lance", folder=tmp_path)
    assert indexed.returncode == 0, indexed.stderr
    assert note in indexed.stderr
    labels = ("classify", "in", "-l", "a,b", "--exclude", "[9-1]x")
    assert note in pe(*labels, folder=tmp_path).stderr
    wrong = pe("eval", "retrieval", "t.csv", folder=tmp_path)
    assert wrong.returncode == 1
    assert "a quote is opened and never closed (line 4)" in wrong.stderr
    pattern = "in/[2019-12-25] trip/*.png"
    assert "1 skipped" in pe("index", pattern, "--index", "t.lance", folder=tmp_path).stderr


_SAYS_WHAT_IT_LOCKS = """
from filelock import FileLock
acquire = FileLock.acquire
def say_and_acquire(self, *arguments, **options):
    print(self.lock_file, flush=True)
    return acquire(self, *arguments, **options)
FileLock.acquire = say_and_acquire
from perception_encoder.cli.main import main
main()
"""


def test_a_busy_index_is_refused_and_waited_for(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "t.lance", tmp_path / "t.lance")
    drawing(77).save(tmp_path / "new.png")
    with write_lock(str(tmp_path / "t.lance")):
        refused = pe("index", ".", "--index", "t.lance", folder=tmp_path)
        assert refused.returncode == 1
        assert f"process {os.getpid()} (since" in refused.stderr
        command = (sys.executable, "-c", _SAYS_WHAT_IT_LOCKS)
        arguments = ("index", ".", "--index", "t.lance", "--wait")
        waiting = started(*arguments, folder=tmp_path, command=command)
        assert waiting.stdout is not None
        assert any("t.lance" in line for line in iter(waiting.stdout.readline, ""))
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.communicate(timeout=1)  # five times as long as without --wait
    _, talk = waiting.communicate(timeout=200)
    assert waiting.returncode == 0, talk
    assert "1 embedded" in talk


def slow_images(folder: Path, count: int) -> None:
    """Write images that take a while to decode, no two alike."""
    folder.mkdir()
    drawing(1, 2500, 2500).save(folder / "0.png", compress_level=1)
    data = (folder / "0.png").read_bytes()
    for number in range(1, count):
        (folder / f"{number}.png").write_bytes(data + number.to_bytes(4, "big"))


_COMMITS_OFTEN = """
from perception_encoder.indexing import commit
commit._SECONDS_OF_A_COMMIT = 0.05
from perception_encoder.cli.main import main
main()
"""


def test_ctrl_c_ends_soon_keeps_what_is_done_and_the_next_run_goes_on(tmp_path: Path) -> None:
    slow_images(tmp_path / "in", 60)
    arguments = ("index", "in", "--index", "t.lance", "--batch-size", "4", "--json")
    process = started(*arguments, folder=tmp_path, command=(sys.executable, "-c", _COMMITS_OFTEN))
    assert process.stdout is not None
    first = process.stdout.readline()  # something has been committed
    assert json.loads(first)["status"] == "embedded"
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "the same command continues from here" in talk
    assert "Traceback" not in talk
    num_kept = Index.open(tmp_path / "t.lance").count()
    assert 0 < num_kept < 60
    again = pe(*arguments, folder=tmp_path)
    statuses = Counter(json.loads(line)["status"] for line in again.stdout.splitlines())
    assert statuses["skipped"] == num_kept
    assert statuses["embedded"] + statuses["reused"] == 60 - num_kept


# Makes a process the first one of its own space of numbers, as in a container: the kernel keeps a
# signal from it that it has no handler for.
_IN_A_CONTAINER = ("unshare", "--fork", "--pid", "--kill-child")


@pytest.mark.parametrize(
    ("before", "returns"), [((), -signal.SIGTERM), (_IN_A_CONTAINER, 128 + signal.SIGTERM)]
)
def test_sigterm_ends_it_as_ctrl_c_does(
    before: tuple[str, ...], returns: int, tmp_path: Path
) -> None:
    if before and subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("processes of their own space are not allowed here")
    (tmp_path / "in").mkdir()
    save_drawings(tmp_path / "in", 1)
    arguments = ("index", "in", "--index", "t.lance", "--json", "--watch")
    process = started(*arguments, folder=tmp_path, command=(*before, *PE))
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["status"] == "embedded"
    ended = process.pid
    if before:
        ended = int(Path(f"/proc/{ended}/task/{ended}/children").read_text())
    os.kill(ended, signal.SIGTERM)
    _, talk = process.communicate(timeout=200)
    assert process.returncode == returns, talk
    assert "Traceback" not in talk
    assert Index.open(tmp_path / "t.lance").count() == 1


def eventually(condition: Callable[[], bool], seconds: float = 100) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_watching_keeps_the_index_in_step_with_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    first, second = save_drawings(folder, 2)
    process = started("index", "in", "--index", "t.lance", "--watch", "--prune", folder=tmp_path)

    def uris() -> set[str]:
        return {Path(row.uri).name for row in Index.open(tmp_path / "t.lance").rows()}

    try:
        assert eventually((tmp_path / "t.lance" / "_versions").exists)
        assert eventually(lambda: uris() == {first.name, second.name})
        drawing(50).save(folder / "new.png")
        first.unlink()
        (folder / "notes.txt").write_text("no image")
        assert eventually(lambda: uris() == {second.name, "new.png"}), uris()
        (tmp_path / "deep").mkdir()
        save_drawings(tmp_path / "deep", 3)
        (tmp_path / "deep").rename(folder / "deep")
        expected = {second.name, "new.png", *(f"drawing{number}.png" for number in range(3))}
        assert eventually(lambda: uris() == expected), uris()
        shutil.rmtree(folder / "deep")
        assert eventually(lambda: uris() == {second.name, "new.png"}), uris()
    finally:
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=200)
    assert process.returncode == 130, talk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_full_disk_is_told_and_the_index_opens(tmp_path: Path, small_disk: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save_drawings(folder, 4)
    index = small_disk / "t.lance"
    output(pe("index", "in", "--index", str(index), folder=tmp_path))
    filler = small_disk / "filler"
    fill(filler)
    for seed in range(60):
        drawing(1000 + seed).save(folder / f"more{seed}.png")
    full = pe("index", "in", "--index", str(index), folder=tmp_path)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "space" in full.stderr
    assert Index.open(index).count() == 4
    filler.unlink()
    output(pe("index", "in", "--index", str(index), folder=tmp_path))
    assert Index.open(index).count() == 64


def test_progress_without_a_terminal_is_a_line_now_and_then(tmp_path: Path) -> None:
    slow_images(tmp_path / "in", 8)
    code = (
        "import perception_encoder.cli.progress as p, sys\n"
        "p._SECONDS_BETWEEN_LINES = 0\n"
        "from perception_encoder.cli.main import main\n"
        "sys.argv = ['pe', 'index', 'in', '--index', 't.lance', '--batch-size', '2']\n"
        "main()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=build_environment(tmp_path),
    )
    assert shown.stdout == ""
    told = [line for line in shown.stderr.splitlines() if " of 8 images" in line]
    assert told
    assert "/s" in told[-1]
    assert "decode" in told[-1]
    assert "encode" in told[-1]
