"""Streams of one GPU. Calls on different streams overlap: one copies while another computes."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from perception_encoder.backends.cudnn_attention import without_cudnn_attention

NUM_STREAMS: Final = 2  # one computes; the other's pictures arrive, its vectors leave


class CudaStreams:
    """Lends a stream to each call; when all are lent, calls wait."""

    def __init__(self, device: torch.device) -> None:
        self._free = queue.SimpleQueue[torch.cuda.Stream]()
        for _ in range(NUM_STREAMS):
            self._free.put(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        # What was copied there before, on the default stream, is seen by these from now on.
        torch.cuda.synchronize(device)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Put what this thread does on the GPU onto a stream of its own."""
        stream = self._free.get()
        try:
            # Leaving a stream alone would select this thread's device, in a new thread the first
            # card, and take memory there though only others are used. Leaving a device does not.
            with (
                torch.cuda.device(stream.device),
                torch.cuda.stream(stream),
                without_cudnn_attention(),
            ):
                yield
        finally:
            self._free.put(stream)
