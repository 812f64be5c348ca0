"""On a full disk models embed without their caches, and saving names what it could not write."""

import gc
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from backends.backend_inputs import pixels, token_rows
from child_processes import TESTS
from small_models import CORE, open_tiny

from perception_encoder.backends import ComputeOptions, open_backend
from perception_encoder.backends.graph_cache import GraphCache
from perception_encoder.checkpoints import locate

# No file may grow beyond a limit, wherever it is: as on a disk that is full.
_SCRIPT = """
import logging, resource, signal, sys
from pathlib import Path
import numpy as np
from perception_encoder import AutoModel
from perception_encoder.backends import ComputeOptions, open_backend
from perception_encoder.checkpoints import locate
from perception_encoder.errors import BackendUnavailableError, CheckpointWriteError
from perception_encoder.export import export_pretrained
from onnx_exports import exporting_once

folder, work = Path(sys.argv[1]), Path(sys.argv[2])
logging.basicConfig(level=logging.WARNING, format="%(message)s")
pixels, token_ids = np.zeros((1, 32, 32, 3), np.uint8), np.array([[1, 2, 3]])
torch = open_backend(locate(folder), ComputeOptions(backend="torch", precision="fp32"))
cached = AutoModel.from_pretrained(
    folder, backend="torch", precision="fp32", device="cpu", cache=work.parent / "embeddings"
)
cached.embed_text("cat")
once = exporting_once()
once.__enter__()
export_pretrained(folder, work.parent / "whole")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, no_limit))

options = ComputeOptions(backend="openvino", precision="fp32", graph_cache=work / "cache")
backend = open_backend(locate(folder), options)
assert np.allclose(backend.encode_image(pixels), torch.encode_image(pixels), atol=1e-4)
assert np.allclose(backend.encode_text(token_ids), torch.encode_text(token_ids), atol=1e-4)
assert not [path for path in work.rglob("*") if path.suffix in (".xml", ".bin")]
try:
    options = ComputeOptions(backend="onnx", graph_cache=work / "cache")
    open_backend(locate(folder), options)
    raise AssertionError
except BackendUnavailableError as err:
    assert "cannot be cached" in str(err) and "pe export" in str(err), err

model = AutoModel.from_pretrained(folder, backend="torch", precision="fp32", device="cpu")
before = {path.name: path.read_bytes() for path in folder.iterdir()}
for path in (work / "sm", folder):
    try:
        model.save_pretrained(path)
        raise AssertionError
    except CheckpointWriteError as err:
        assert str(path) in str(err), err
for backend in ("openvino", "onnx"):
    try:
        export_pretrained(folder, work / backend, backend=backend)
        raise AssertionError
    except CheckpointWriteError as err:
        assert str(work / backend) in str(err), err
assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
assert [path.name for path in work.iterdir()] == ["cache"]

images = [np.full((20, 20, 3), level, np.uint8) for level in range(250)]
found = cached.embed_images(images, batch_size=25)
assert np.allclose(found, model.embed_images(images), atol=1e-5)
print("done")
resource.setrlimit(resource.RLIMIT_FSIZE, (no_limit, no_limit))  # coverage writes its figures
"""


def test_a_full_disk_costs_only_time_or_is_an_error_of_ours(tmp_path):
    folder = open_tiny().save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(folder), str(tmp_path / "work")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("done\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert "graphs of tiny-core cannot be cached, so opening is slow" in done.stderr
    assert "new embeddings are no longer cached" in done.stderr


@pytest.mark.usefixtures("exporting_once")
@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_where_only_the_cache_cannot_be_written_graphs_are_made_elsewhere(
    backend, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING)
    folder = open_tiny().save_pretrained(tmp_path / "model")
    options = ComputeOptions(backend=backend, precision="fp32", graph_cache=tmp_path / "cache")
    expected = open_backend(locate(folder), options).encode_text(token_rows(2))

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(GraphCache, "graph", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    backend = open_backend(locate(folder), options)
    texts, images = backend.encode_text(token_rows(2)), backend.encode_image(pixels(CORE, 1))
    assert np.array_equal(texts, expected)
    assert images.shape == (1, 24)
    assert "cannot be cached, so opening is slow: [Errno 30] Read-only file system" in caplog.text
    backend.close()
    del backend
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []
