"""Towers through torch.compile, on the CPU; the same code runs on GPUs."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from engine_inputs import pixels, token_rows
from small_models import CLIP, CORE, FP32_ON_CPU

from perception_encoder.backends import open_random_backend
from perception_encoder.errors import BackendUnavailableError

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
]

assert CORE.text is not None
SHALLOW = replace(CORE, vision=replace(CORE.vision, depth=1), text=replace(CORE.text, depth=1))


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
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # pictures and texts


def test_without_a_compiler_it_says_what_is_missing():
    import torch._inductor.config as inductor

    settings = {"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True}
    with (
        inductor.patch(settings),
        pytest.raises(BackendUnavailableError, match=r"C\+\+ compiler.*without compile=True"),
    ):
        open_random_backend(CLIP, replace(FP32_ON_CPU, compile=True))


def test_others_compute_while_a_model_is_compiled():
    """They wait for it: a model that is called while torch traces another one fails."""
    eager = open_random_backend(CORE, FP32_ON_CPU)
    images = pixels(CORE, 2)
    expected = eager.encode_image(images)
    is_over = threading.Event()

    def compute():
        count = 0
        while not is_over.is_set():
            assert np.array_equal(eager.encode_image(images), expected)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        counts = [pool.submit(compute) for _ in range(2)]
        try:
            # Of another shape than any before, so that it is traced anew.
            shape = replace(SHALLOW, vision=replace(SHALLOW.vision, mlp_width=80), text=None)
            open_random_backend(shape, replace(FP32_ON_CPU, compile=True))
        finally:
            is_over.set()
        assert all(count.result() > 0 for count in counts)
