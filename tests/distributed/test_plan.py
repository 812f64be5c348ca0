"""How a cluster's nodes are divided among workers, and what is said where they cannot be."""

import sys
from pathlib import Path

import pytest
from cli.command import pe

from perception_encoder.distributed import vector_index_builder
from perception_encoder.distributed.cluster import WorkerPlan, connect, plan_workers
from perception_encoder.errors import ClusterError
from perception_encoder.index import Index
from perception_encoder.types import ModelIdentity

HEAD = {"CPU": 0.0, "memory": 1e9}
SMALL = {"CPU": 8.0, "memory": 1e9}
LARGE = {"CPU": 32.0, "memory": 1e9}
TWO_GPUS = {"CPU": 16.0, "GPU": 2.0}
EIGHT_GPUS = {"CPU": 128.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "device", "cores", "expected"),
    [
        ([HEAD, SMALL, SMALL], "auto", None, WorkerPlan(2, 8, 0)),
        ([SMALL, LARGE], "auto", None, WorkerPlan(5, 8, 0)),
        ([SMALL, LARGE], "cpu", 16, WorkerPlan(2, 16, 0)),
        ([SMALL, TWO_GPUS, EIGHT_GPUS], "auto", None, WorkerPlan(10, 8, 1)),
        ([TWO_GPUS, EIGHT_GPUS], "cuda", 4, WorkerPlan(10, 4, 1)),
        ([TWO_GPUS, EIGHT_GPUS], "cuda", 12, WorkerPlan(9, 12, 1)),
        ([TWO_GPUS], "cpu", None, WorkerPlan(1, 16, 0)),
    ],
)
def test_each_gpu_has_a_worker_or_each_node_where_there_is_none(
    nodes: list[dict[str, float]], device: str, cores: int | None, expected: WorkerPlan
) -> None:
    assert plan_workers(nodes, device, cores) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "cores", "message"),
    [
        ([HEAD, SMALL], "cuda", None, "none of the cluster's 2 nodes has a GPU"),
        ([HEAD, SMALL], "auto", 9, "no node of the cluster has 9 CPU cores.*the most are 8"),
        ([HEAD], "auto", None, "no node of the cluster has 1 CPU cores.*the most are 0"),
        ([TWO_GPUS], "cuda:0,1", None, "cannot be told to use cuda:0,1"),
    ],
)
def test_what_can_never_be_scheduled_is_refused(
    nodes: list[dict[str, float]], device: str, cores: int | None, message: str
) -> None:
    with pytest.raises(ClusterError, match=message):
        plan_workers(nodes, device, cores)


def test_without_a_cluster_or_ray_the_way_to_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with (
            pytest.raises(ClusterError, match=f"no answer at {address}.*ray start --head"),
            connect(address),
        ):
            pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ClusterError, match=r"pip install 'perception-encoder\[ray\]'"),
        connect("auto"),
    ):
        pass


def test_a_vector_index_is_built_for_a_bucket_by_a_member_of_the_cluster(tmp_path: Path) -> None:
    pytest.importorskip("lance_ray")
    with (
        pytest.raises(ClusterError, match=r"ray://head:10001.*on a machine of the cluster"),
        vector_index_builder("ray://head:10001"),
    ):
        pass
    path = str(tmp_path / "t.lance")
    Index.create(path, ModelIdentity("pe-nano", "0123456789abcdef", "standard", 8))
    done = pe("optimize", "--index", path, "--ray", "auto", folder=tmp_path)
    assert done.returncode == 2
    assert "on this machine, where optimizing needs no cluster" in done.stderr
