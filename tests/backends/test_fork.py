"""Models that were opened before a fork work in the child, whatever the parent was doing."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from child_processes import TESTS
from small_models import CORE, FP32_ON_CPU, open_tiny

from perception_encoder.backends import open_random_backend
from perception_encoder.errors import BackendUnavailableError

_SECONDS = 250  # far above what it takes on a busy machine; a hang is the bug

_SCRIPT = """
import os, sys, threading
from pathlib import Path
import numpy as np
from perception_encoder import AutoModel

folder, backend, expected = sys.argv[1], sys.argv[2], {}
if backend == "onnx":
    from onnx_exports import exporting_once
    once = exporting_once()
    once.__enter__()
images = [np.full((40, 40, 3), level, np.uint8) for level in range(0, 240, 20)]

def results(model):
    return {
        "image": model.embed_image(images[0]),
        "images": model.embed_images(images),
        "text": model.embed_text(["cat", "a cat"]),
        "features": model.features(images[:3]),
        "video": model.embed_video(images[:3]),
        "similarity": model.similarity(model.embed_text("cat"), model.embed_image(images[0])),
    }

def opened(cache=None):
    return AutoModel.from_pretrained(
        folder, backend=backend, precision="fp32", device="cpu", cache=cache
    )

def check(found):
    for name, values in expected.items():
        assert np.allclose(found[name], values, atol=1e-5), name

model, cached = opened(), opened(cache=Path(folder) / "cache.sqlite")
expected = results(model)
cached.embed_images(images[:2])
# Other threads compute, open a model and hold locks at the moment of the fork.
is_going, has_begun = threading.Event(), threading.Event()
def compute():
    while not is_going.is_set():
        model.embed_images(images)
        has_begun.set()
threads = [threading.Thread(target=compute) for _ in range(2)]
for thread in threads:
    thread.start()
has_begun.wait()
child = os.fork()
if child == 0:
    try:
        check(results(model))
        check(results(cached))
        check(results(opened()))
        if backend == "torch":
            model.save_pretrained(Path(folder).parent / "saved in the child")
        grandchild = os.fork()
        if grandchild == 0:
            check(results(model))
            os._exit(0)
        assert os.waitpid(grandchild, 0)[1] == 0
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
is_going.set()
for thread in threads:
    thread.join()
assert os.waitpid(child, 0)[1] == 0
check(results(model))
check(results(cached))
"""


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_every_call_works_in_a_forked_process(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    folder = open_tiny().save_pretrained(tmp_path / "model")
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(folder), backend]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            assert process.wait(_SECONDS) == 0
        finally:
            with suppress(ProcessLookupError):  # a child that hangs would take a core for ever
                os.killpg(process.pid, signal.SIGKILL)


def test_a_model_on_a_gpu_says_so_at_once():
    backend = open_random_backend(CORE, FP32_ON_CPU)
    backend._device = torch.device("cuda:1")  # type: ignore[attr-defined]
    backend.device = "cuda:1"
    backend._process += 1  # type: ignore[attr-defined]
    pixels = torch.zeros(1, 32, 32, 3, dtype=torch.uint8).numpy()
    token_ids = torch.ones(1, 3, dtype=torch.int64).numpy()
    for call, inputs in (
        (backend.encode_image, pixels),
        (backend.features, pixels),
        (backend.encode_text, token_ids),
    ):
        with pytest.raises(BackendUnavailableError, match=r"cuda:1 before the process forked"):
            call(inputs)
