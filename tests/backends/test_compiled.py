"""Towers through torch.compile, on the CPU; the same code runs on GPUs."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from backends.backend_inputs import pixels, token_rows
from small_models import CLIP, CORE, FP32_ON_CPU

from perception_encoder.backends import open_random_backend
from perception_encoder.backends.torch_devices import CompiledTowers
from perception_encoder.errors import BackendUnavailableError

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
]

assert CORE.text is not None
assert CLIP.text is not None
SHALLOW = replace(CORE, vision=replace(CORE.vision, depth=1), text=replace(CORE.text, depth=1))
# Of other code, so that nothing of it is known.
OTHER = replace(CLIP, vision=replace(CLIP.vision, depth=1), text=replace(CLIP.text, depth=1))


@pytest.fixture
def plain_compiler(tmp_path):
    """Let torch compile plain code without optimizing it, which takes most of the time."""
    import torch._inductor.config as inductor

    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
    compiler.chmod(0o755)
    # Without vectors, and without trying out which of them the processor has.
    plain = {"cpp.cxx": (None, str(compiler)), "cpp.simdlen": 1, "cpp.vec_isa_ok": True}
    with inductor.patch(plain):
        yield


@pytest.mark.usefixtures("plain_compiler")
def test_one_compilation_serves_every_batch_and_length():
    import torch._dynamo

    eager = open_random_backend(SHALLOW, FP32_ON_CPU)
    torch._dynamo.utils.counters.clear()
    compiled = open_random_backend(SHALLOW, replace(FP32_ON_CPU, compile=True))
    for batch in (0, 1, 2, 5, 40):
        images = pixels(SHALLOW, batch)
        difference = compiled.encode_image(images) - eager.encode_image(images)
        assert np.abs(difference).max(initial=0) < 1e-5
    for batch, length in ((0, 4), (1, 3), (4, 12), (7, 5)):
        rows = token_rows(batch, length)
        difference = compiled.encode_text(rows) - eager.encode_text(rows)
        assert np.abs(difference).max(initial=0) < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # images and texts


def test_without_a_compiler_it_says_what_is_missing(tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    settings = {"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True}
    with (
        inductor.patch(settings),
        pytest.raises(BackendUnavailableError, match=r"C\+\+ compiler.*without compile=True"),
    ):
        open_random_backend(OTHER, replace(FP32_ON_CPU, compile=True))


def test_nobody_computes_while_a_model_is_compiled(monkeypatch):
    """torch's tracer would take along whoever calls another model meanwhile."""
    eager, images = open_random_backend(CORE, FP32_ON_CPU), pixels(CORE, 2)
    graph, is_compiling, is_over, met = eager._open_graphs.image, threading.Event(), [], []  # type: ignore[attr-defined]

    has_begun = threading.Event()

    def watched(batch):
        met.append(is_compiling.is_set())
        has_begun.set()
        return graph(batch)

    def compile_slowly(_, batch):
        is_compiling.set()
        time.sleep(0.2)
        is_compiling.clear()
        return torch.zeros(len(batch), 1)

    def compute():
        while not is_over:
            eager.encode_image(images)

    eager._open_graphs = eager._open_graphs._replace(image=watched)  # type: ignore[attr-defined]
    monkeypatch.setattr(CompiledTowers, "__call__", compile_slowly)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(compute) for _ in range(2)]
        try:
            assert has_begun.wait(100)
            open_random_backend(CORE, replace(FP32_ON_CPU, compile=True))
        finally:
            is_over.append(True)
        assert [call.result() for call in calls] == [None, None]
    assert met
    assert not any(met)
