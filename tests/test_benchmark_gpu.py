"""The benchmark for GPUs, on the CPU with the smallest model; nothing is compiled."""

import json

import pytest

from benchmarks.gpu.__main__ import take
from benchmarks.gpu.results import Deadline, Results
from benchmarks.gpu.steps import KINDS, Job

JOB = Job("pe-nano", "cpu", batches=(1, 2), text_batches=(1, 3), seconds=0.01)


@pytest.fixture
def written(tmp_path):
    """Takes steps within so many seconds, and reads what was written."""

    def take_within(seconds, names):
        results = Results(tmp_path / "gpu.json", "cpu")
        with Deadline(seconds) as deadline:
            for kind in KINDS:
                if kind.name in names:
                    take(kind, JOB, results, deadline)
        return json.loads((tmp_path / "gpu.json").read_text())

    return take_within


def test_steps_leave_their_figures_and_missing_peers_are_named(written):
    report = written(200, ("eager", "probes"))
    figures = report["models"]["pe-nano"]
    for kind, sizes in (("images", {"1", "2"}), ("texts", {"1", "3"})):
        ours = figures[kind]["ours bf16"]
        assert set(ours["by_size"]) == sizes
        assert len(ours["rates"]) == 5
        assert min(ours["rates"]) <= ours["rate"] <= max(ours["rates"])
        assert 0.99 < figures["drift"][kind]["lowest"] < 1
        assert sum(figures["kernels"][kind]["shares"].values()) == pytest.approx(1, abs=0.2)
        assert set(figures["callers"][kind]) == sizes - {"2"} | {max(sizes)}
    reached = figures["images"]["ours bf16"]["share_of_matrix_rate"]
    rate = figures["matrix_operations_a_second"]["bf16"]
    assert reached * rate / figures["operations_of_an_image"] > 0
    assert set(figures["attention"]) == {"shape", "flash", "cudnn", "efficient", "math"}
    assert "timm bf16" in figures["unavailable"] or "timm bf16" in figures["images"]
    assert report["left_out"] == {}
    assert "running" not in report


def test_a_step_that_would_not_end_in_time_is_left_out(written):
    report = written(5, ("eager", "compiled"))
    assert set(report["left_out"]) == {"pe-nano eager", "pe-nano compiled"}
    assert report["models"] == {}


def test_a_step_that_fails_is_noted_and_the_next_is_taken(written, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.steps.kernels", lambda *_: 1 / 0)
    report = written(100, ("probes",))
    assert "ZeroDivisionError" in report["left_out"]["pe-nano probes"]
    assert set(report["seconds"]) == {"pe-nano probes"}
