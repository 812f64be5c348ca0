"""`pe bench` as people run it, on tiny models and on one whose weights are made up."""

import json
import re
import sys
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import small_models
from cli.command import lines, output, pe, pe_ending
from typer.testing import CliRunner

from perception_encoder.backends import torch_devices
from perception_encoder.bench import EdgeOptions, child
from perception_encoder.bench.edge import Limits
from perception_encoder.cli.bench import measure_edge
from perception_encoder.cli.main import app
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.export import export_pretrained
from perception_encoder.registry.config import image_operations

pytestmark = pytest.mark.usefixtures("exporting_once")


@pytest.fixture(scope="module")
def core(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("core")
    with small_models.open_tiny() as model:
        return model.save_pretrained(folder / "core")


def do_here(task: str, request: dict[str, object], folder: Path) -> Any:
    """Do in this process what `run_task` does in another."""
    asked, answered = folder / "request.json", folder / "reply.json"
    asked.write_text(json.dumps(request))
    child.main(task, str(asked), str(answered))
    reply = json.loads(answered.read_text())
    if "error" in reply:
        raise BackendUnavailableError(reply["error"])
    return reply["value"]


@pytest.fixture
def bench(monkeypatch):
    """`pe bench --quick` in this process, which also does what each backend has one of its own for.

    Only the first test and the two of small machines start those: importing torch anew for every
    figure takes longer than the figure. Figures are measured once, with a small image and matrix.
    """
    monkeypatch.setattr(child, "_CAMERA_SIZE", (1000, 500))
    monkeypatch.setattr(torch_devices, "matrix_rate", partial(torch_devices.matrix_rate, size=64))

    def run_here(task, request, folder, **_):
        if task == "measure":
            request |= {"rounds": 1, "seconds": 0.02}
        return do_here(task, request, folder)

    def bench(*arguments: object):
        for module in ("run", "child"):
            monkeypatch.setattr(f"perception_encoder.bench.{module}.run_task", run_here)
        given = ["bench", "--quick", *map(str, arguments)]
        result = CliRunner().invoke(app, given, catch_exceptions=False)
        return CompletedProcess(given, result.exit_code, result.stdout, result.stderr)

    return bench


def test_each_precision_is_a_row_compared_with_fp32(core: Path, tmp_path: Path) -> None:
    asked = ("--model", str(core), "--precision", "bf16", "--precision", "fp32", "--json")
    finished = pe("bench", "--backend", "torch", "--quick", *asked, folder=tmp_path)
    fp32, bf16 = lines(finished)
    config = small_models.CORE
    for row, precision in ((fp32, "fp32"), (bf16, "bf16")):
        figures = row["figures"]
        assert (figures["backend"], figures["precision"]) == ("torch", precision)
        assert figures["images_per_second"] > 0
        assert figures["text_ms"] > 0
        assert figures["decode_ms"] > 1  # 12 megapixels
        assert figures["peak_bytes"] > 2**26
        assert figures["instructions"]
        assert row["model"] == str(core)
        assert row["has_random_weights"] is False
        assert row["operations"] == image_operations(config.vision, config.embed_dim)
        reached = figures["images_per_second"] * row["operations"] / row["ceiling"]
        assert row["fraction"] == pytest.approx(reached)
    assert fp32["image_drift"]["worst"] == pytest.approx(1, abs=1e-6)
    for name in ("image_drift", "text_drift"):
        assert 0.99 < bf16[name]["worst"] <= bf16[name]["mean"] < 1


def test_drift_is_told_where_fp32_is_not_measured(bench, core: Path) -> None:
    asked = ("--model", core, "--backend", "torch", "--precision", "bf16", "--json")
    (row,) = lines(bench(*asked))
    assert 0.99 < row["text_drift"]["worst"] < 1


def test_onnx_is_exported_for_the_occasion_and_an_export_is_measured_as_it_is(
    bench, core: Path, tmp_path: Path
) -> None:
    asked = ("--backend", "onnx", "--precision", "int8", "--json")
    (row,) = lines(bench("--model", core, *asked))
    assert (row["figures"]["backend"], row["figures"]["precision"]) == ("onnx", "int8")
    assert 0.95 < row["image_drift"]["worst"] < 0.99999
    export_pretrained(core, tmp_path / "exported")
    (row,) = lines(bench("--model", tmp_path / "exported", "--json"))
    assert (row["figures"]["backend"], row["figures"]["precision"]) == ("onnx", "fp32")
    assert row["text_drift"] is None  # its weights are not there to compare with


def test_the_index_has_a_line_for_a_row_and_dashes_for_a_model_without_text(
    bench, tmp_path: Path
) -> None:
    with small_models.open_tiny(small_models.WITHOUT_TEXT, tokenizer=None) as model:
        folder = model.save_pretrained(tmp_path / "images")
    finished = bench("--model", folder, "--backend", "torch", "--precision", "fp32")
    header, line = output(finished).splitlines()
    cells = line[header.index("backend") :].split()
    assert cells[:2] == ["torch", "fp32"]
    assert cells.count("-") == 3  # texts/s, 1 text, texts agree
    assert "random weights" not in finished.stderr


def test_what_a_backend_cannot_do_is_left_out_and_said(bench, core: Path) -> None:
    model = ("--model", core, "--backend", "torch", "--precision", "int8")
    finished = bench(*model, "--precision", "fp32", "--json")
    assert [row["figures"]["precision"] for row in lines(finished)] == ["fp32"]
    assert "torch, int8: left out" in finished.stderr
    nothing = bench(*model)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "nothing could be measured" in nothing.stderr


def test_weights_that_are_not_here_are_made_up_and_that_is_said(bench) -> None:
    asked = ("--model", "PE-Spatial-T16-512", "--backend", "torch", "--precision", "fp32")
    finished = bench(*asked)
    assert output(finished).splitlines()[1].startswith("PE-Spatial-T16-512  torch")
    assert "PE-Spatial-T16-512: measured with random weights" in finished.stderr


def test_mistakes_are_found_before_anything_is_measured(core: Path, tmp_path: Path) -> None:
    plot = ("--plot", str(tmp_path / "nowhere" / "speed.png"))
    wrong = pe_ending("bench", "--model", str(core), *plot, folder=tmp_path, returns=1)
    assert "choose a folder that exists" in wrong.stderr
    wrong = pe_ending("bench", "--model", "PE-Core-X", folder=tmp_path, returns=1)
    assert "no model is named 'PE-Core-X'" in wrong.stderr


@pytest.mark.parametrize(("several", "one"), [("cuda:all", "cuda:0"), ("cuda:2,3", "cuda:2")])
def test_of_several_cards_it_says_which_one_to_type(bench, several: str, one: str) -> None:
    refused = bench("--model", "pe-nano", "--device", several)
    assert refused.returncode == 2
    assert f"--device {one}" in " ".join(refused.stderr.replace("│", " ").split())


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="its limits are Linux's")


@ON_LINUX
def test_a_small_machine_runs_exports_within_its_limits(
    core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, of which an export is made here, and an export of a model that reads no text."""

    def run(task: str, request: dict[str, object], folder: Path) -> Any:
        return (do_here if task == "export" else child.run_task)(task, request, folder)

    monkeypatch.setattr("perception_encoder.bench.edge.run_task", run)
    with small_models.open_tiny(small_models.WITHOUT_TEXT, tokenizer=None) as model:
        model.save_pretrained(tmp_path / "saved")
    export_pretrained(tmp_path / "saved", tmp_path / "exported", precision="int8")
    models = ("--model", str(core), "--model", "exported")
    asked = ("--profile", "edge", "--quick", "--backend", "onnx", "--precision", "int8", "--json")
    both, images = lines(pe("bench", *models, *asked, folder=tmp_path))
    for row in (both, images):
        assert (row["backend"], row["precision"]) == ("onnx", "int8")
        assert row["limits"] == {"num_cores": 1, "memory_bytes": 2**30}
        assert row["image_ms"] > 0
        assert row["images_per_second"] > 0
        assert row["image_memory"]["fits"]
        assert 2**26 < row["image_memory"]["peak_bytes"] < 2**30
    assert both["text_ms"] > 0
    assert both["both_memory"]["fits"]
    assert both["text_file_bytes"] > 0
    files = sum(path.stat().st_size for path in (tmp_path / "exported").glob("image.*"))
    assert (images["image_file_bytes"], images["text_file_bytes"]) == (files, 0)
    assert (images["text_ms"], images["both_memory"]) == (None, None)


@ON_LINUX
def test_what_a_small_machine_cannot_hold_is_a_row_that_says_so(
    core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """48 MiB are too little for any backend, and enough for Python: nothing of it ends the run."""
    export_pretrained(core, tmp_path / "exported")
    options = EdgeOptions(
        models=[str(tmp_path / "exported")],
        precisions=["fp32", "bf16"],
        limits=Limits(num_cores=1, memory_bytes=48 * 2**20),
        is_quick=True,
    )
    measure_edge(options, {}, as_json=False)
    written = capsys.readouterr()
    header, row, *_ = written.out.splitlines()
    assert row[header.index("backend") :].split()[:6] == ["onnx", "fp32", "-", "-", "-", "-"]
    needed = re.findall(r"needs (\d+) MB", row)
    assert len(needed) == 2
    assert all(int(size) > 48 for size in needed)
    assert "bf16: left out" in written.err


def test_a_small_machine_has_no_torch_no_other_device_and_no_plot(tmp_path: Path) -> None:
    for wrong in (("--backend", "torch"), ("--device", "cuda"), ("--plot", "speed.png")):
        refused = pe_ending("bench", "--profile", "edge", *wrong, folder=tmp_path, returns=2)
        assert "--profile edge" in refused.stderr
