"""Whatever `pe` is given, it ends with one clear line: no traceback, no waiting, no half a file."""

import io
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from child_processes import build_environment
from cli.command import PE, Ended, pe_inside
from PIL import Image

INDEX = ("--index", "t.lance")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, and with things that are not what they are named as."""
    root = tmp_path_factory.mktemp("hostile")
    for label in ("red", "blue"):
        (root / "in" / label).mkdir(parents=True)
        for place in range(5):
            image = Image.new("RGB", (32, 32 + place), label)
            image.save(root / "in" / label / f"{place}.png")
    (root / "in" / "red" / "copy.png").write_bytes((root / "in" / "red" / "0.png").read_bytes())
    assert pe_inside("index", str(root / "in"), "--index", str(root / "t.lance")).code == 0
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    (root / "binary").write_bytes(bytes(range(256)) * 20)
    (root / "nothing").touch()
    with (root / "endless").open("wb") as file:
        file.truncate(2**40)
    return root


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))


def check(ended: Ended) -> None:
    """Make sure of a clear end: a failure says why, and nothing is a bug's trace."""
    assert ended.code in (0, 1, 2), ended
    assert "Traceback" not in ended.err
    assert "this is a bug" not in ended.err
    assert not ended.code or ended.err.strip()


INPUTS = (
    "missing", "folder", "pipe", "binary", "nothing", "endless", "/dev/zero", "/dev/null",
    "x" * 300, "in/red/0.png/x", "", "\udcff", "http://[", "[", "{}", "{1..99999999999}.png",
)  # fmt: skip
NUL = "a\0b"  # no process can be given it, but a program that calls `pe` in its own


@pytest.mark.parametrize("given", [*INPUTS, NUL], ids=lambda name: ascii(name[:20]))
def test_inputs_that_are_something_else(given: str) -> None:
    for command in (
        ("embed", given),
        ("embed", "-t", given),
        ("embed", "-t", "a", "--model", given),
        ("embed", "-t", "a", "--device", given),
        ("compare", "a", given),
        ("compare", given, "a"),
        ("search", given, *INDEX),
        ("search", "--queries", given, *INDEX),
        ("search", "red", *INDEX, "--where", given),
        ("similar", given, *INDEX),
        ("classify", *INDEX, "--labels", given),
        ("classify", *INDEX, "--labels-file", given),
        ("classify", *INDEX, "--labels", "red", "--template", given),
        ("classify", *INDEX, "--labels", "red", "--only", given),
        ("cluster", *INDEX, "-k", "2", "--names", given),
        ("eval", "classification", "in", "--labels-file", given),
        ("indexes", "import", given, "--index", "i.lance"),
        ("serve", "--alias", given),
    ):
        check(pe_inside(*command))


@pytest.mark.parametrize("given", ["missing", "folder", "\udcff"])
def test_indexes_that_are_something_else(given: str) -> None:
    for command in ("search red", "similar @0.png", "classify -l red", "cluster", "map m.html",
                    "duplicates", "errors", "optimize", "index info", "clean",
                    "select"):  # fmt: skip
        ended = pe_inside(*command.split(), "--index", given)
        check(ended)
        assert ended.code != 0


OUTPUTS = (
    "missing/x", "missing/x.png", "folder", "pipe", "in/red/0.png/x", "in/red/0.png/x.png", "",
    "x" * 300, "x" * 300 + ".png", "/proc/x", "/proc/x.png", "/dev/full",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS, ids=lambda name: ascii(name[:20]))
def test_outputs_that_cannot_be_written(home: Path, name: str) -> None:
    before = sorted(home.rglob("*"))
    for command in (
        ("embed", "-t", "a", "--format", "npy", "-o", name),
        ("embed", "-t", "a", "--format", "jsonl", "-o", name),
        ("embed", "-t", "a", "--format", "parquet", "-o", name),
        ("search", "red", *INDEX, "--sheet", name),
        ("classify", *INDEX, "-l", "red,blue", "--sheet", name),
        ("cluster", *INDEX, "-k", "2", "--sheet", name),
        ("cluster", *INDEX, "-k", "2", "--parquet", name),
        ("duplicates", *INDEX, "--tier", "bytes", "--sheet", name),
        ("duplicates", *INDEX, "--script", name),
        ("clean", *INDEX, "--only", "leak", "--report", name),
        ("select", *INDEX, "-n", "2", "--sheet", name),
        ("map", name, *INDEX, "-k", "2"),
        ("indexes", "export", name, "--format", "npy", *INDEX),
    ):
        ended = pe_inside(*command)
        check(ended)
        assert ended.code != 0, command
        assert not name or name.partition("/")[0][:20] in ended.err
    assert sorted(home.rglob("*")) == before


NUMBERS = ("9" * 5000, "1e999", "nan", "inf", "-inf", "-1", "x", "", "99999999999", "1e10")


@pytest.mark.parametrize("given", NUMBERS, ids=lambda text: text[:11])
def test_numbers_that_no_command_can_use(given: str) -> None:
    for command in (
        ("search", "red", *INDEX, "-k"),
        ("search", "red", *INDEX, "--offset"),
        ("classify", *INDEX, "-l", "red", "-k"),
        ("classify", *INDEX, "-l", "red", "--min-probability"),
        ("cluster", *INDEX, "-k"),
        ("duplicates", *INDEX, "--threshold"),
        ("clean", *INDEX, "--threshold"),
        ("clean", *INDEX, "--outlier-rate"),
        ("select", *INDEX, "-n"),
        ("optimize", *INDEX, "--keep-days"),
        ("embed", "-t", "a", "--dim"),
        ("embed", "-t", "a", "--batch-size"),
        ("indexes", "export", "e", "--format", "clip-retrieval", *INDEX, "--part-rows"),
        ("map", "m.html", *INDEX, "--seed"),
        ("index", "in", *INDEX, "--batch-size"),
        ("index", "in", *INDEX, "--ray-cores"),
        ("eval", "classification", "in", "--batch-size"),
        ("serve", "--port"),
        ("serve", "--unload-after"),
        ("serve", "--max-wait-ms"),
        ("serve", "--timeout"),
        ("serve", "--max-pixels"),
        ("serve", "--rate"),
    ):
        ended = pe_inside(*command, given)
        check(ended)
        assert ended.code != 0, command
        assert len(ended.err) < 3000
    for threshold in ("--threshold", "--unique"):
        ended = pe_inside("search", "red", *INDEX, f"{threshold}={given}")
        check(ended)
        assert ended.code != 0 or (threshold, given) == ("--threshold", "-1")


@pytest.mark.parametrize(
    ("variable", "value", "command"),
    [
        ("PE_BATCH_SIZE", "x", ("embed", "-t", "a")),
        ("PE_DEVICE", "tpu", ("embed", "-t", "a")),
        ("PE_BACKEND", "jax", ("embed", "-t", "a")),
        ("PE_PRECISION", "fp7", ("embed", "-t", "a")),
        ("PE_PREPROCESS", "none", ("embed", "-t", "a")),
        ("PE_COMPILE", "perhaps", ("embed", "-t", "a")),
        ("PE_MODEL", "no-such-model", ("embed", "-t", "a")),
        ("PE_INDEX", "no-such-index", ("search", "red")),
        ("PE_INDEX", "no-such-index", ("indexes", "info")),
        ("PE_MODEL", "no-such-model", ("eval", "classification", "in")),
        ("PE_PORT", "70000", ("serve",)),
        ("PE_TIMEOUT", "nan", ("serve",)),
        ("PE_ALIAS", "nonsense", ("serve",)),
        ("PE_KEY_FILE", "missing", ("serve",)),
    ],
)
def test_a_wrong_variable_is_named(
    variable: str, value: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    ended = pe_inside(*command)
    check(ended)
    assert ended.code != 0
    assert variable in ended.err


def test_an_error_of_ours_is_no_traceback_but_with_v(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicError(BaseException):
        """As what Rust panics with in Python, which is no Exception."""

    def fail(*_: object) -> None:
        raise PanicError("deep\x1b[31m\nforged: in there")

    monkeypatch.setattr("perception_encoder.cli.embed._write", fail)
    ended = pe_inside("embed", "-t", "a")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    first, second = ended.err.splitlines()
    assert first == r"pe: PanicError: deep\x1b[31m\nforged: in there"
    assert "report it" in second
    told = pe_inside("-v", "embed", "-t", "a")
    assert "Traceback" in told.err
    assert "\x1b" not in told.err


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond that, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("v.npy", ("embed", "-t", "a", "b", "-o")),
        ("v.jsonl", ("embed", "-t", "a", "b", "-o")),
        ("v.parquet", ("embed", "-t", "a", "b", "-o")),
        ("s.png", ("search", "red", *INDEX, "--sheet")),
        ("s.jpg", ("classify", *INDEX, "-l", "red,blue", "--sheet")),
        ("c.png", ("cluster", *INDEX, "-k", "2", "--sheet")),
        ("c.parquet", ("cluster", *INDEX, "-k", "2", "--parquet")),
        ("d.webp", ("duplicates", *INDEX, "--tier", "bytes", "--sheet")),
        ("d.sh", ("duplicates", *INDEX, "--script")),
        ("m.png", ("map", *INDEX, "-k", "2")),
        ("m.html", ("map", *INDEX, "-k", "2")),
        ("m.parquet", ("map", *INDEX, "-k", "2")),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, name: str, command: tuple[str, ...]
) -> None:
    target = tmp_path / name
    target.write_bytes(b"old")
    with largest_file(300):
        ended = pe_inside(*command, str(target))
    check(ended)
    assert ended.code == 1
    assert f"{target}: cannot be written: " in ended.err
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
    assert pe_inside(*command, str(target)).code == 0
    assert target.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link_and_rights_stay_rights(tmp_path: Path) -> None:
    (tmp_path / "real.npy").write_bytes(b"old")
    (tmp_path / "real.npy").chmod(0o640)
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    assert pe_inside("embed", "-t", "a", "-o", str(tmp_path / "link.npy")).code == 0
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "real.npy").shape == (1, 192)
    assert (tmp_path / "real.npy").stat().st_mode & 0o777 == 0o640


def test_a_stream_is_written_to_as_it_is(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    name = f"/dev/fd/{writing}"
    assert pe_inside("embed", "-t", "a", "--format", "npy", "-o", name).code == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert np.load(io.BytesIO(pipe.read())).shape == (1, 192)
    with (tmp_path / "redirected").open("wb") as file:  # as `-o /dev/stdout > redirected`
        name = f"/dev/fd/{file.fileno()}"
        assert pe_inside("embed", "-t", "a", "--format", "npy", "-o", name).code == 0
        assert np.load(tmp_path / "redirected").shape == (1, 192)
        assert os.fstat(file.fileno()).st_ino == (tmp_path / "redirected").stat().st_ino


def test_moves_on_a_full_disk_leave_whole_lines(tmp_path: Path) -> None:
    for place in range(6):
        Image.new("RGB", (32, 32 + place), "red").save(tmp_path / f"{place}.png")
    to = tmp_path / "to"
    with largest_file(700):
        ended = pe_inside(
            "classify", str(tmp_path), "-l", "red,blue", "--move-to", str(to), "--yes"
        )
    check(ended)
    assert ended.code == 1
    records = [json.loads(line) for line in (to / "moved.jsonl").read_text().splitlines()]
    moved = {path.name for path in (to / "red").iterdir()}
    assert moved == {Path(record["to"]).name for record in records}
    assert 0 < len(moved) < 6
    assert f"{len(moved)} image" in ended.err
    left = {path.name for path in tmp_path.glob("*.png")}
    assert moved | left == {f"{place}.png" for place in range(6)}
    assert not moved & left


def test_a_label_too_long_for_a_folder_stops_no_other_move(tmp_path: Path) -> None:
    for label in ("red", "blue"):
        Image.new("RGB", (32, 32), label).save(tmp_path / f"{label}.png")
    (tmp_path / "l.json").write_text(json.dumps({"red": ["red"], "x" * 300: ["blue"]}))
    ended = pe_inside(
        "classify", str(tmp_path / "red.png"), str(tmp_path / "blue.png"), "--labels-file",
        str(tmp_path / "l.json"), "--move-to", str(tmp_path / "to"), "--yes",
    )  # fmt: skip
    check(ended)
    assert (tmp_path / "to" / "red" / "red.png").is_file()
    assert (tmp_path / "blue.png").is_file()
    assert "blue.png: stays: it cannot be moved" in ended.err


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "<&-", ">&-", "2>&-"])
def test_closed_streams_are_no_error_and_no_file_gets_their_output(
    tmp_path: Path, closed: str
) -> None:
    """As under a service manager: the file must not become number 1 or 2."""
    command = f'exec "$@" {closed}'
    arguments = (*PE, "-v", "embed", "-t", "a", "-o", str(tmp_path / "v.npy"))
    done = subprocess.run(
        ["sh", "-c", command, "sh", *arguments], check=False, env=build_environment(tmp_path)
    )
    assert done.returncode == 0
    assert (tmp_path / "v.npy").stat().st_size == 128 + 192 * 4
    assert np.load(tmp_path / "v.npy").shape == (1, 192)
