"""One model on several devices at once: every call goes to the one with the least to do."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from perception_encoder.backends.base import Backend
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import renew_in_children
from perception_encoder.types import Embeddings, Pixels, TokenIds


class Replicas:
    """A `Backend` made of backends of the same weights.

    Whoever has many batches keeps all of them busy with `concurrency` calls at once; a single call
    is computed on one device.

    Args:
        backends: two or more; closed with this one.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        first = backends[0]
        self._backends = backends
        self.renew_after_fork()
        renew_in_children(self)
        self.name = first.name
        self.device = ",".join(backend.device for backend in backends)
        self.precision = first.precision
        self.fingerprint = first.fingerprint
        self.logit_scale = first.logit_scale
        self.concurrency = sum(backend.concurrency for backend in backends)

    def renew_after_fork(self) -> None:
        """No call runs."""
        self._calls = [0] * len(self._backends)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, devices: Sequence[str], open_one: Callable[[str], Backend]) -> "Replicas":
        """Open a backend on each of the devices; if one fails, none stays open.

        Raises:
            BackendUnavailableError: a device is not to be had, or they would not compute alike.
        """
        with ExitStack() as opened:
            backends = []
            for device in devices:
                backends.append(open_one(device))
                opened.callback(backends[-1].close)
            if len({backend.precision for backend in backends}) > 1:
                found = ", ".join(f"{one.device}: {one.precision}" for one in backends)
                raise BackendUnavailableError(
                    f"these devices would compute in different precisions ({found}); name one with "
                    "precision="
                )
            replicas = cls(backends)
            opened.pop_all()
        return replicas

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        with self._least_busy() as backend:
            return backend.encode_image(pixels)

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        with self._least_busy() as backend:
            return backend.encode_text(token_ids)

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`."""
        with self._least_busy() as backend:
            return backend.features(pixels, layer=layer)

    def close(self) -> None:
        """See `Backend.close`."""
        for backend in self._backends:
            backend.close()

    @contextmanager
    def _least_busy(self) -> Iterator[Backend]:
        with self._lock:
            number = self._calls.index(min(self._calls))
            self._calls[number] += 1
        try:
            yield self._backends[number]
        finally:
            with self._lock:
                self._calls[number] -= 1
