"""On a full disk models embed without their caches, and saving names what it could not write."""

import gc
import logging
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from backends.backend_inputs import pixels, token_rows
from small_models import CORE, open_tiny

from perception_encoder import AutoModel
from perception_encoder.backends import ComputeOptions, open_backend
from perception_encoder.backends.graph_cache import GraphCache
from perception_encoder.checkpoints import locate
from perception_encoder.errors import BackendUnavailableError, CheckpointWriteError
from perception_encoder.export import export_pretrained


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond a limit, wherever it is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("exporting_once")
@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_costs_only_time_or_is_an_error_of_ours(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    folder, work = open_tiny().save_pretrained(tmp_path / "model"), tmp_path / "work"
    work.mkdir()
    on_torch = {"backend": "torch", "precision": "fp32", "device": "cpu"}
    cached = AutoModel.from_pretrained(folder, **on_torch, cache=tmp_path / "embeddings")
    cached.embed_text("cat")
    torch = open_backend(locate(folder), ComputeOptions(backend="torch", precision="fp32"))
    export_pretrained(folder, tmp_path / "whole")  # what `exporting_once` keeps
    with full_disk():
        options = ComputeOptions(backend="openvino", precision="fp32", graph_cache=work / "cache")
        backend = open_backend(locate(folder), options)
        images, texts = pixels(CORE, 1), token_rows(2)
        assert np.allclose(backend.encode_image(images), torch.encode_image(images), atol=1e-4)
        assert np.allclose(backend.encode_text(texts), torch.encode_text(texts), atol=1e-4)
        assert not [path for path in work.rglob("*") if path.suffix in (".xml", ".bin")]
        options = ComputeOptions(backend="onnx", graph_cache=work / "cache")
        with pytest.raises(BackendUnavailableError, match=r"cannot be cached.*pe export"):
            open_backend(locate(folder), options)

        model = AutoModel.from_pretrained(folder, **on_torch)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for path in (work / "sm", folder):
            with pytest.raises(CheckpointWriteError, match=re.escape(str(path))):
                model.save_pretrained(path)
        for name in ("openvino", "onnx"):
            with pytest.raises(CheckpointWriteError, match=re.escape(str(work / name))):
                export_pretrained(folder, work / name, backend=name)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in work.iterdir()] == ["cache"]

        drawings = [np.full((20, 20, 3), level, np.uint8) for level in range(250)]
        found = cached.embed_images(drawings, batch_size=25)
        assert np.allclose(found, model.embed_images(drawings), atol=1e-5)
    assert "graphs of tiny-core cannot be cached, so opening is slow" in caplog.text
    assert "new embeddings are no longer cached" in caplog.text


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
