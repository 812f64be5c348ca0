"""Keeps torch from cuDNN's attention on GPUs while a model computes.

torch 2.11 and later prefer it on Hopper and Blackwell. It makes a plan for every shape, 0.06 to 0.4
seconds each as users report, anew in every thread, and keeps the plans of threads that have ended
(aten/src/ATen/native/cudnn/MHA.cpp). Texts come in all lengths and batches in all sizes; the flash
kernel needs no plan.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Switch:
    """torch's own switch is the whole process's, so the last call to end sets it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_calls = 0
        self._before = True

    @contextmanager
    def off(self) -> Iterator[None]:
        with self._lock:
            if self._num_calls == 0:
                self._before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
                torch.backends.cuda.enable_cudnn_sdp(False)
            self._num_calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_calls -= 1
                if self._num_calls == 0:
                    torch.backends.cuda.enable_cudnn_sdp(self._before)


without_cudnn_attention = _Switch().off
