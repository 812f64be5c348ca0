"""What the OpenVINO backend does beyond the contract: its cache, its precisions, and no torch."""

import dataclasses
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files

import numpy as np
import openvino
import pytest
from backends.backend_inputs import pixels, token_rows, unit
from openvino import opset13
from small_models import CORE, FP32_ON_CPU

from perception_encoder.backends import ComputeOptions, open_backend, open_random_backend
from perception_encoder.backends.openvino_backend import OpenVinoBackend
from perception_encoder.backends.openvino_write import compress_to_int8
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.errors import BackendUnavailableError, CheckpointError
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.registry import find

EXACT = 2e-5  # on unit vectors, as between backends
# The lowest cosine with float32, and the largest difference of a number between batches. With
# bf16, a batch of another size is summed in another order and rounded to 8 bits after each step.
LOWEST = {"bf16": 0.9995, "int8": 0.998}
BETWEEN_BATCHES = {"fp32": 2e-5, "bf16": 4e-3, "int8": 6e-3}


def save(folder, seed=0):
    save_model(random_model(CORE, seed), folder, None)
    return locate(folder)


def options(cache, precision="fp32"):
    return ComputeOptions(backend="openvino", device="cpu", precision=precision, graph_cache=cache)


def open_cached(checkpoint, cache):
    return OpenVinoBackend.load(checkpoint, options(cache))


def graphs(cache, name):
    return sorted(cache.glob(f"openvino/*/{name}/graph.*"))


@pytest.fixture(scope="module")
def gallery():
    """All 277 drawings that int8 was not calibrated on, prepared for pe-nano."""
    config = find("pe-nano").config
    processor = ImageProcessor(config.image, config.vision.image_size)
    folder = files("perception_encoder").joinpath("data/gallery")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(".webp"))
    return np.stack([processor(path) for place, path in enumerate(paths) if place % 6])


def available(precision):
    try:
        return open_backend(
            locate("pe-nano"), ComputeOptions(backend="openvino", precision=precision)
        )
    except BackendUnavailableError as err:
        pytest.skip(str(err))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_are_close_on_real_drawings_and_texts(gallery, precision):
    backend = available(precision)
    exact = open_backend(locate("pe-nano"), FP32_ON_CPU)
    config = find("pe-nano").config
    rows = np.random.default_rng(0).integers(0, config.text.vocab_size - 2, (40, 9))
    rows[:, -1] = config.text.vocab_size - 1
    for found, expected in (
        (backend.encode_image(gallery), exact.encode_image(gallery)),
        (backend.encode_text(rows), exact.encode_text(rows)),
    ):
        assert (unit(found) * unit(expected)).sum(axis=1).min() > LOWEST[precision]
    assert backend.fingerprint == exact.fingerprint
    assert backend.precision == precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_image_has_nearly_the_same_vector_in_every_batch(gallery, precision):
    backend = available(precision)
    together = unit(backend.encode_image(gallery))
    for size in (1, 3, 8):
        alone = unit(backend.encode_image(gallery[:size]))
        assert np.abs(alone - together[:size]).max() <= BETWEEN_BATCHES[precision]


def test_a_real_shape_has_the_vectors_of_the_towers(tmp_path):
    config = find("PE-Core-T16-384").config
    context = config.text.context_length
    rows = np.zeros((3, context), np.int64)
    rows[:, :6] = np.random.default_rng(0).integers(1, 40_000, (3, 6))
    rows[:, 6] = config.text.vocab_size - 1
    exact = open_random_backend(config, FP32_ON_CPU)
    backend = open_random_backend(config, options(tmp_path))
    for columns in (7, context):
        found, expected = (one.encode_text(rows[:, :columns]) for one in (backend, exact))
        assert np.abs(unit(found) - unit(expected)).max() <= EXACT
    images = pixels(config, 2)
    found, expected = (one.encode_image(images) for one in (backend, exact))
    assert np.abs(unit(found) - unit(expected)).max() <= EXACT


def test_a_warm_cache_opens_without_torch(tmp_path):
    checkpoint = save(tmp_path / "model")
    cold = open_cached(checkpoint, tmp_path / "cache")
    np.savez(
        tmp_path / "expected.npz",
        image=cold.encode_image(pixels(CORE, 2)),
        text=cold.encode_text(token_rows(2)),
    )
    np.savez(tmp_path / "inputs.npz", image=pixels(CORE, 2), text=token_rows(2))
    script = """
import sys
from pathlib import Path
import numpy as np
from perception_encoder.backends import ComputeOptions, open_backend
from perception_encoder.checkpoints import locate
folder = Path(sys.argv[1])
given, expected = np.load(folder / "inputs.npz"), np.load(folder / "expected.npz")
options = ComputeOptions(backend="openvino", precision="fp32", graph_cache=folder / "cache")
backend = open_backend(locate(folder / "model"), options)
assert np.array_equal(backend.encode_image(given["image"]), expected["image"])
assert np.array_equal(backend.encode_text(given["text"]), expected["text"])
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=200)


def test_first_calls_of_several_threads_do_not_stop_the_process():
    script = """
import sys, threading
import openvino as ov
from perception_encoder.backends import ComputeOptions, open_backend
from perception_encoder.checkpoints import locate
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
def call():
    backend = open_backend(locate("pe-nano"), ComputeOptions(backend="openvino"))
    barrier.wait()
    ov.Type.u8.to_dtype()  # as every call of a model does for its inputs
threads = [threading.Thread(target=call) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=200)


@pytest.fixture(params=[1, 0], ids=["with a handler", "without handlers"])
def log(request, monkeypatch):
    """The program's log: a level, a filter and a handler of its own, or none yet."""
    root = logging.getLogger()

    def state():
        return root.level, list(root.filters), list(root.handlers)

    def begin():  # within the test, as pytest adds handlers of its own before
        # The converter gives a log without handlers one of its own, the first time.
        monkeypatch.setattr("openvino.tools.ovc.logger.handler_num", 0)
        monkeypatch.setattr(root, "level", logging.INFO)
        monkeypatch.setattr(root, "filters", [logging.Filter()])
        monkeypatch.setattr(root, "handlers", [logging.NullHandler()] * request.param)
        return state

    return begin


def test_graphs_are_made_one_at_a_time_and_leave_the_programs_log_as_it_was(
    tmp_path, log, monkeypatch
):
    state = log()
    before, convert, both, met = state(), openvino.convert_model, threading.Barrier(2), []

    def meeting(*given, **named):
        with suppress(threading.BrokenBarrierError):
            met.append(both.wait(0.5))
        return convert(*given, **named)

    monkeypatch.setattr(openvino, "convert_model", meeting)
    checkpoints = [save(tmp_path / f"model{seed}", seed) for seed in range(2)]
    backends = [open_cached(checkpoint, tmp_path / "cache") for checkpoint in checkpoints]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda backend: backend.encode_text(token_rows(1)), backends))
    assert len(list((tmp_path / "cache").glob("openvino/*/text/graph.xml"))) == 2
    assert not met
    assert state() == before


def test_a_graph_that_cannot_be_made_leaves_the_programs_log_as_it_was(tmp_path, log, monkeypatch):
    state = log()
    before, convert = state(), openvino.convert_model
    backend = open_cached(save(tmp_path / "model"), tmp_path / "cache")
    monkeypatch.setattr(openvino, "convert_model", lambda *_, **__: convert(object()))
    with pytest.raises(Exception, match="Unknown model type"):
        backend.encode_text(token_rows(1))
    assert state() == before


@pytest.mark.parametrize(("precision", "ending"), [("fp32", "_f32"), ("bf16", "_bf16")])
def test_it_tells_the_instructions_that_multiply_matrices(precision, ending):
    backend = available(precision)
    assert isinstance(backend, OpenVinoBackend)
    assert backend.name_instructions() is None  # before a graph is open
    backend.encode_image(pixels(find("pe-nano").config, 2))
    assert f"_{backend.name_instructions()}".endswith(ending)


def test_a_text_makes_no_graph_for_images(tmp_path):
    backend = open_cached(save(tmp_path / "model"), tmp_path / "cache")
    assert not graphs(tmp_path / "cache", "text")
    backend.encode_text(token_rows(1))
    assert graphs(tmp_path / "cache", "text")
    assert not graphs(tmp_path / "cache", "image")


def test_changed_weights_are_noticed_though_size_and_time_are_the_old(tmp_path):
    checkpoint = save(tmp_path / "model")
    first = open_cached(checkpoint, tmp_path / "cache")
    before, old = os.stat(checkpoint.path), first.encode_image(pixels(CORE, 1))
    other = save(tmp_path / "other", seed=1)
    shutil.copyfile(other.path, checkpoint.path)
    os.utime(checkpoint.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(checkpoint.path).st_size == before.st_size
    again = open_cached(checkpoint, tmp_path / "cache")
    assert again.fingerprint != first.fingerprint
    assert not np.allclose(again.encode_image(pixels(CORE, 1)), old, atol=1e-3)
    with pytest.raises(CheckpointError, match="changed while"):
        first.encode_text(token_rows(1))  # its graph was not made yet


@pytest.mark.parametrize("harm", ["cut", "empty", "altered", "gone", "no record"])
def test_a_damaged_graph_is_made_anew(tmp_path, harm):
    checkpoint = save(tmp_path / "model")
    expected = open_cached(checkpoint, tmp_path / "cache").encode_image(pixels(CORE, 2))
    weights, graph = graphs(tmp_path / "cache", "image")
    data = weights.read_bytes()
    if harm == "cut":
        weights.write_bytes(data[: len(data) // 2])
    elif harm == "empty":
        graph.write_bytes(b"")
    elif harm == "altered":
        weights.write_bytes(data[:100] + bytes(50) + data[150:])
    elif harm == "gone":
        weights.unlink()
    else:
        (weights.parent / "files.json").write_text('{"graph')
    found = open_cached(checkpoint, tmp_path / "cache").encode_image(pixels(CORE, 2))
    assert np.array_equal(found, expected)
    assert weights.read_bytes() == data


def test_a_damaged_note_of_the_weights_costs_only_time(tmp_path):
    checkpoint = save(tmp_path / "model")
    expected = open_cached(checkpoint, tmp_path / "cache").fingerprint
    (note,) = (tmp_path / "cache" / "weights").iterdir()
    for content in ("", "[]", '{"file": 1}', note.read_text()[:-20]):
        note.write_text(content)
        assert open_cached(checkpoint, tmp_path / "cache").fingerprint == expected


def test_processes_that_open_a_model_at_once_make_its_graph_once(tmp_path):
    save(tmp_path / "model")
    script = """
import sys
from pathlib import Path
import numpy as np
from perception_encoder.backends import ComputeOptions, open_backend
from perception_encoder.checkpoints import locate
folder = Path(sys.argv[1])
options = ComputeOptions(backend="openvino", precision="fp32", graph_cache=folder / "cache")
vectors = open_backend(locate(folder / "model"), options).encode_text(np.array([[1, 2, 3]]))
print(vectors.tobytes().hex())
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    results = {process.communicate(timeout=200)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(results) == 1
    (key,) = (tmp_path / "cache" / "openvino").iterdir()
    assert sorted(path.name for path in key.iterdir()) == ["text", "text.lock"]


def test_where_nothing_can_be_written_it_works_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    checkpoint = save(tmp_path / "model")
    blocked = tmp_path / "a file"
    blocked.write_text("")
    backend = open_cached(checkpoint, blocked / "cache")
    expected = open_cached(checkpoint, tmp_path / "cache").encode_image(pixels(CORE, 2))
    assert np.array_equal(backend.encode_image(pixels(CORE, 2)), expected)
    assert "cannot be cached" in caplog.text


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    with pytest.raises(BackendUnavailableError, match=r"'cuda'.*backend='torch'"):
        open_random_backend(CORE, dataclasses.replace(options(tmp_path), device="cuda"))
    checkpoint = save(tmp_path / "model")
    known = open_cached(checkpoint, tmp_path / "cache")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BackendUnavailableError, match=r"perception-encoder\[openvino\]"):
        open_cached(checkpoint, tmp_path / "cache")
    with pytest.raises(BackendUnavailableError, match=r"torch is needed once.*\[cpu\]"):
        known.encode_text(token_rows(1))


def test_int8_without_nncf_names_the_extra(monkeypatch, tmp_path):
    backend = open_random_backend(CORE, options(tmp_path, "int8"))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "nncf" else found(name)
    )
    with pytest.raises(BackendUnavailableError, match=r"perception-encoder\[int8\]"):
        backend.encode_image(pixels(CORE, 1))


def test_wrong_shapes_are_refused(tmp_path):
    backend = open_random_backend(CORE, options(tmp_path))
    with pytest.raises(ValueError, match="pixels must be"):
        backend.encode_image(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="pixels must be"):
        backend.features(pixels(CORE, 1).astype(np.float32))
    with pytest.raises(ValueError, match="token_ids must be"):
        backend.encode_text(token_rows(1, CORE.text.context_length + 1))


def test_int8_leaves_the_log_of_the_host_alone():
    log, handler = logging.getLogger("nncf"), logging.NullHandler()
    log.addHandler(handler)
    before = log.level, logging.getLoggerClass()
    pixels = opset13.parameter([1, 64], np.float32)
    weights = opset13.constant(np.ones((64, 64), np.float32))
    product = opset13.matmul(pixels, weights, transpose_a=False, transpose_b=False)
    try:
        compress_to_int8(openvino.Model([product], [pixels]))
        assert handler.level == logging.NOTSET
        assert (log.level, logging.getLoggerClass()) == before
    finally:
        log.removeHandler(handler)
