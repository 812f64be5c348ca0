"""Runs on a Ray cluster of this machine: two workers, and the same index as without them."""

import gc
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import lance
import numpy as np
import pytest
from buckets import Bucket, Fault, open_bucket
from small_models import drawing, save_drawings
from typer.testing import CliRunner, Result
from video_clips import SCENES, write_clip

from perception_encoder import AutoModel
from perception_encoder.backends import ComputeOptions
from perception_encoder.cli.main import app
from perception_encoder.distributed import cluster as workers
from perception_encoder.distributed import on_cluster, vector_index_builder
from perception_encoder.distributed import run as place_module
from perception_encoder.distributed.cluster import WorkerPlan
from perception_encoder.errors import ClusterError, IndexStorageError
from perception_encoder.index import Index, OutcomeLog, Row
from perception_encoder.index.vector_index import INDEX_NAME, renew_vector_index
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
def store() -> Iterator[Bucket]:
    """A bucket with ten images: `images/0.png` and so on."""
    settings = {
        "AWS_MAX_ATTEMPTS": "1",  # s3fs tries five times, each time as often as botocore does
        "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": 3}}),
    }
    with open_bucket() as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client, name = boto3.client("s3"), opened.uri.removeprefix("s3://")
        for number in range(10):
            encoded = io.BytesIO()
            drawing(number).save(encoded, "PNG")
            client.put_object(Bucket=name, Key=f"images/{number}.png", Body=encoded.getvalue())
        yield opened


@pytest.fixture
def bucket(store: Bucket) -> Iterator[Bucket]:
    """The bucket, which answers every request again after the test."""
    answered = store.find_fault
    yield store
    store.find_fault = answered


@pytest.fixture(scope="module")
def address(store: Bucket) -> Iterator[str]:  # noqa: ARG001  workers need its environment
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


def run_at(place: place_module.RunPlacement, index: Index, items: list[Item]) -> Run:
    return Run(
        place.model,
        index,
        [Listing(items)],
        RunOptions(batch_size=2),
        open_preparing=lambda: place.preparing(2),
    )


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
        run = run_at(place, index, items)
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


def index_on(address: str, *arguments: str) -> Result:
    """Run `pe index` on a cluster, with one worker."""
    on_ray = ["--ray", address, "--ray-cores", "2", "--batch-size", "2"]
    return CliRunner().invoke(app, ["index", *arguments, *on_ray])


def list_uris(path: str) -> list[str]:
    return sorted(row.uri for row in Index.open(path).rows())


def image_uris(bucket: Bucket) -> list[str]:
    return [f"{bucket.uri}/images/{number}.png" for number in range(10)]


def path_of(uri: str) -> str:
    """Return the path of requests for it."""
    return uri.removeprefix("s3:/")


def test_a_bucket_that_is_busy_and_slow_costs_no_image(address: str, bucket: Bucket) -> None:
    uris, path = image_uris(bucket), f"{bucket.uri}/busy.lance"
    images: dict[str, list[Fault]] = {path_of(uri): ["refused"] for uri in uris}
    commits: list[Fault] = ["refused", "answer lost"]
    hung, asked_again = path_of(uris[3]), threading.Event()

    def find_fault(method: str, asked: str) -> Fault | None:
        left = images.get(asked, []) if method == "GET" else []
        if method == "PUT" and asked.startswith(f"{path_of(path)}/_versions/") and seen:
            left = commits
        fault = left.pop(0) if left else None
        if (method, asked, fault) == ("GET", hung, None):
            if hung in seen:
                asked_again.set()
            seen.add(hung)
            asked_again.wait(60)  # the first time until the client has given up
        return fault

    seen: set[str] = set()
    bucket.find_fault = find_fault
    Index.create(path, AutoModel.from_pretrained("pe-nano", device="cpu").identity)
    done = index_on(address, f"{bucket.uri}/images", "--index", path)

    assert done.exit_code == 0, done.output
    assert "10 embedded" in done.stderr
    assert list_uris(path) == uris
    assert not any(images.values())
    assert not commits


def test_a_bucket_that_does_not_recover_is_an_error_and_the_next_run_completes(
    address: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBJECT_STORE_CLIENT_MAX_RETRIES", "1")
    uris, path, answered = image_uris(bucket), f"{bucket.uri}/down.lance", bucket.find_fault
    down = {uris[4], uris[7]}
    refused = {path_of(uri) for uri in down}
    bucket.find_fault = lambda _, asked: "refused" if asked in refused else None

    done = index_on(address, f"{bucket.uri}/images", "--index", path)
    assert done.exit_code == 1
    assert "8 embedded, 2 failed" in done.stderr
    failed = OutcomeLog(path).latest(["failed"])
    assert {(one.uri, one.reason) for one in failed} == {
        (uri, "ImageUnreadableError") for uri in down
    }
    assert list_uris(path) == [uri for uri in uris if uri not in down]

    bucket.find_fault = lambda method, asked: (
        "refused" if method == "PUT" and asked.startswith(path_of(path)) else None
    )
    done = index_on(address, f"{bucket.uri}/images", "--index", path)
    assert isinstance(done.exception, IndexStorageError)
    assert str(done.exception).startswith(path)  # its rows or its outcomes
    assert "the object store failed" in str(done.exception)

    bucket.find_fault = answered
    done = index_on(address, "--retry-failed", "--index", path)
    assert done.exit_code == 0, done.output
    assert list_uris(path) == uris


@contextmanager
def second_node(address: str) -> Iterator[str]:
    """Add a node of one core to the cluster; yield its id. Afterwards it is known to be gone."""
    before = {node["NodeID"] for node in ray.nodes()}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
    command += [f"--address={address}", f"--object-store-memory={100 * 2**20}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (new := {node["NodeID"] for node in ray.nodes() if node["Alive"]} - before):
            assert process.poll() is None
            time.sleep(0.1)
        (node_id,) = new
        yield node_id
    finally:
        process.terminate()
        process.wait()
        # Ray may notice only by a missing heartbeat; until then, plans of workers count the node.
        while len([node for node in ray.nodes() if node["Alive"]]) > 1:
            time.sleep(0.1)


def test_a_machine_that_dies_costs_no_image(address: str, tmp_path: Path) -> None:
    paths = save_drawings(tmp_path, 12)
    is_used = str(tmp_path / "is-used")  # the process id of the node, once it has an image

    with second_node(address) as lost:

        def read(path: str) -> bytes:
            import ray

            if ray.get_runtime_context().get_node_id() == lost:
                Path(f"{path}.pid").write_text(str(os.getppid()))
                os.replace(f"{path}.pid", is_used)
                time.sleep(3600)  # until the node is killed
            while not os.path.exists(is_used):
                time.sleep(0.05)
            return Path(path).read_bytes()

        items = [Item(str(path), partial(read, str(path)), mtime=1) for path in paths]
        with on_cluster(address, "pe-nano", CPU, cores=1) as place:
            assert place.plan == WorkerPlan(3, 1, 0)
            index = Index.create(tmp_path / "t.lance", place.model.identity)
            run = run_at(place, index, items)
            with ThreadPoolExecutor(1) as pool:
                outcomes = pool.submit(lambda: list(run.outcomes()))
                while not os.path.exists(is_used):
                    time.sleep(0.05)
                os.kill(int(Path(is_used).read_text()), signal.SIGKILL)
                statuses = [outcome.status for outcome in outcomes.result()]
    assert statuses == ["embedded"] * 12
    assert sorted(row.uri for row in index.rows()) == sorted(map(str, paths))


def test_a_run_that_is_killed_is_completed_by_the_next(address: str, bucket: Bucket) -> None:
    uris, path = image_uris(bucket), f"{bucket.uri}/killed.lance"
    is_asked, is_dead = threading.Event(), threading.Event()

    def find_fault(_: str, asked: str) -> None:
        if asked == path_of(uris[7]):
            is_asked.set()
            is_dead.wait()

    bucket.find_fault = find_fault
    arguments = [f"{bucket.uri}/images", "--index", path]
    pe = str(Path(sys.executable).with_name("pe"))
    on_ray = ["--ray", address, "--ray-cores", "2", "--batch-size", "2"]
    process = subprocess.Popen([pe, "index", *arguments, *on_ray], stderr=subprocess.PIPE)
    try:
        assert is_asked.wait(300)
    finally:
        process.kill()
        process.communicate()
        is_dead.set()

    done = index_on(address, *arguments)
    assert done.exit_code == 0, done.output
    assert list_uris(path) == uris


def test_a_cluster_builds_the_vector_index(address: str, bucket: Bucket) -> None:
    pytest.importorskip("lance_ray")
    path = f"{bucket.uri}/built.lance"
    vectors = np.random.default_rng(0).normal(size=(600, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Index.create(path, ModelIdentity("pe-nano", "0123456789abcdef", "standard", 64))
    for start in (0, 300):  # a fragment for each of two workers
        rows = [Row(str(number)) for number in range(start, start + 300)]
        index.append(rows, vectors[start : start + 300])

    dataset = lance.dataset(path)
    with vector_index_builder(address, cores=1) as build:
        assert build.plan == WorkerPlan(2, 1, 0)
        found = renew_vector_index(dataset, build)

    assert found.recall is not None
    assert found.recall > 0.9
    (described,) = [one for one in dataset.describe_indices() if one.name == INDEX_NAME]
    assert [sorted(one.fragment_ids) for one in described.segments] == [[0, 1]]

    arguments = ["optimize", "--index", path, "--ray", address, "--ray-cores", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"pe: 2 workers of 1 CPU core at {address}" in done.stderr
    assert len(lance.dataset(path).get_fragments()) == 1
