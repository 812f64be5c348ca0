"""Runs on a Ray cluster of this machine: two workers, and the same index as without them."""

import gc
import os
import secrets
import shutil
import signal
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import drawing, save_drawings
from typer.testing import CliRunner
from video_clips import SCENES, write_clip

from perception_encoder.backends import ComputeOptions
from perception_encoder.cli.main import app
from perception_encoder.distributed import cluster as workers
from perception_encoder.distributed import on_cluster
from perception_encoder.distributed import run as place_module
from perception_encoder.errors import ClusterError
from perception_encoder.index import Index, OutcomeLog, Row
from perception_encoder.indexing import Run, RunOptions
from perception_encoder.sources import Item
from perception_encoder.sources.access import read_file
from perception_encoder.types import ModelIdentity
from perception_encoder.video import VideoDecoder

# Ray reads these once in a process, when it is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ray = pytest.importorskip("ray")

# Ray leaves pipes and sockets to the garbage collector, which comes when it will.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CPU = ComputeOptions(device="cpu")


def start_ray(home: str, tries: int = 4) -> Any:
    """Start a cluster. Ray gives its own processes 30 s, which a busy machine may exceed."""
    try:
        return ray.init(
            num_cpus=2,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            object_store_memory=100 * 2**20,
            _temp_dir=home,
        )
    except Exception as err:
        if tries == 1 or "timed out during startup" not in str(err):
            raise
    ray.shutdown()
    gc.collect()
    return start_ray(home, tries - 1)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two cores that nobody else can join."""
    home = tempfile.mkdtemp(prefix="ray")  # short, as names of sockets must be
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            # Lance warns of any fork; these only lead to other programs.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            warnings.simplefilter("ignore", ResourceWarning)
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            patch.setenv("RAY_gcs_server_port_wait_time_s", "120")  # a busy machine is no failure
            started = start_ray(home)
        yield started.address_info["address"]
    finally:
        ray.shutdown()
        gc.collect()  # here, where what Ray has left open is no error
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def mixed(tmp_path: Path) -> list[str]:
    """A folder with copies and broken files, an archive and a packed one."""
    folder = tmp_path / "in"
    folder.mkdir()
    save_drawings(folder, 12)
    for seed in range(3):
        shutil.copy(folder / f"drawing{seed}.png", folder / f"copy{seed}.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "away.png").symlink_to(tmp_path / "nowhere.png")
    for name, first in (("a.tar", 20), ("b.tar.gz", 40)):
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            for seed in range(first, first + 10):
                drawing(seed).save(tmp_path / "one.png")
                archive.add(tmp_path / "one.png", f"{seed}.png")
    return [str(folder), str(tmp_path / "a.tar"), str(tmp_path / "b.tar.gz")]


def contents(path: Path) -> tuple[list[Row], np.ndarray]:
    index = Index.open(path)
    rows = list(index.rows())
    order = sorted(range(len(rows)), key=lambda number: rows[number].id)
    return [rows[number] for number in order], index.vectors()[order]


def test_a_cluster_makes_the_index_that_one_process_makes(
    address: str, mixed: list[str], tmp_path: Path
) -> None:
    on_ray = ["--ray", address, "--ray-cores", "1", "--batch-size", "8"]

    alone = CliRunner().invoke(app, ["index", *mixed, "--index", str(tmp_path / "alone.lance")])
    shared = CliRunner().invoke(
        app, ["index", *mixed, *on_ray, "--index", str(tmp_path / "shared.lance")]
    )

    assert alone.exit_code == shared.exit_code == 1, shared.output
    assert "2 workers of 1 CPU core" in shared.stderr
    for report in (alone.stderr, shared.stderr):
        assert "32 embedded, 3 failed, 3 reused; 35 images" in report
    expected_rows, expected_vectors = contents(tmp_path / "alone.lance")
    rows, vectors = contents(tmp_path / "shared.lance")
    assert rows == expected_rows
    np.testing.assert_allclose(vectors, expected_vectors, atol=1e-3)
    reasons = [
        {(one.uri, one.reason) for one in OutcomeLog(str(tmp_path / name)).latest(["failed"])}
        for name in ("alone.lance", "shared.lance")
    ]
    assert reasons[0] == reasons[1]


def test_workers_read_videos(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save_drawings(folder, 3)
    write_clip(folder / "a.mp4", SCENES[:3])
    write_clip(folder / "b.mkv", SCENES[2:], 1.5)
    shutil.copy(folder / "a.mp4", folder / "copy.mp4")
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    indexed = ["index", str(folder), "--batch-size", "4", "--index"]

    alone = CliRunner().invoke(app, [*indexed, str(tmp_path / "alone.lance")])
    with monkeypatch.context() as patch:  # what is decoded here does not count
        patch.setattr(VideoDecoder, "sample", None)
        on_ray = ["--ray", address, "--ray-cores", "1"]
        shared = CliRunner().invoke(app, [*indexed, str(tmp_path / "shared.lance"), *on_ray])

    assert alone.exit_code == shared.exit_code == 1, shared.output
    assert "1 failed" in shared.stderr
    expected_rows, expected_vectors = contents(tmp_path / "alone.lance")
    rows, vectors = contents(tmp_path / "shared.lance")
    assert rows == expected_rows
    np.testing.assert_allclose(vectors, expected_vectors, atol=1e-3)
    (failed,) = OutcomeLog(str(tmp_path / "shared.lance")).latest(["failed"])
    assert failed.reason == "VideoDecodeError"
    assert "bad.mp4" in failed.message


class Listing:
    """A source of given items."""

    name = "given"

    def __init__(self, items: list[Item]) -> None:
        self._items = items

    def items(self) -> Iterator[Item]:
        yield from self._items

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002  as every source
        return False


def test_workers_that_die_cost_no_image_but_the_one_that_kills_them(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_module, "_TRIES", 2)  # each costs the start of a worker
    paths = save_drawings(tmp_path, 12)

    # A function within a function travels as it is; a worker knows no module of tests.
    def die() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("dead")

    items = [Item(str(path), partial(read_file, str(path)), mtime=1) for path in paths]
    items[9] = Item(str(paths[9]), die, mtime=1)  # and with it others that the worker had
    with on_cluster(address, "pe-nano", CPU, cores=1) as place:
        index = Index.create(tmp_path / "t.lance", place.model.identity)
        run = Run(
            place.model,
            index,
            [Listing(items)],
            RunOptions(batch_size=2),
            open_preparing=lambda: place.preparing(2),
        )
        outcomes = list(run.outcomes())
    assert Counter(outcome.status for outcome in outcomes) == {"embedded": 11, "failed": 1}
    (failed,) = (outcome for outcome in outcomes if outcome.status == "failed")
    assert failed.uri == str(paths[9])
    assert failed.reason == "WorkerCrashedError"
    assert "workers ended while they had this image" in failed.message
    assert {row.uri for row in index.rows()} == {str(path) for path in paths} - {failed.uri}


def test_weights_that_are_not_the_indexes_are_refused(address: str) -> None:
    other = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 192)
    with (
        pytest.raises(ClusterError, match="that of the index is pe-nano with weights 0123456789"),
        on_cluster(address, "pe-nano", CPU, expected=other),
    ):
        pass


def test_a_cluster_that_others_use_is_not_waited_for_in_silence(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = "no room: wanted are 2 workers of 1 CPU core, free are 0"
    with on_cluster(address, "pe-nano", CPU):
        monkeypatch.setattr(workers, "PLACING_SECONDS", 0.5)
        with (
            pytest.raises(ClusterError, match=wanted),
            on_cluster(address, "pe-nano", CPU, cores=1),
        ):
            pass
